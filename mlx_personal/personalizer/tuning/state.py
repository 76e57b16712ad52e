"""What an interrupted tuning has done so far, in a file of the profile that the next one goes on from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlx_personal.config import Config
from mlx_personal.evaluation import AnswerLoss, ModelOutputs
from mlx_personal.importers import load_dialogues
from mlx_personal.personalizer.answering import mode_in_use
from mlx_personal.personalizer.tuning.search import Trial
from mlx_personal.profile import Store
from mlx_personal.storage.files import atomic_write

_FILE: Final = "tuning.json"
# The settings that change what a trial computes.
_TABLES: Final = ("embedding", "finetune", "mixture", "evaluation", "memory")


@dataclass(frozen=True)
class PresentOutputs:
    """What the present settings give on the held-out dialogues.

    Attributes:
        outputs: What the model computes of each part of them.
        tokens: Number of tokens that its training computed, see `trials`.
        training_s: Duration of the training.
        evaluation_s: Duration of the rest.
    """

    outputs: tuple[ModelOutputs, ...]
    tokens: int
    training_s: float
    evaluation_s: float


@dataclass
class TuningState:
    """The work of a tuning so far.

    Attributes:
        identity: Digest of everything that the trials depend on.
        trials: The trials in order.
        present: The present settings' outputs; None before they are computed.
    """

    identity: str
    trials: list[Trial] = field(default_factory=list)
    present: PresentOutputs | None = None

    def write(self, folder: Path) -> None:
        """Write the state to a profile.

        Args:
            folder: The profile's folder.
        """
        values = {
            "identity": self.identity,
            "trials": [trial.to_json() for trial in self.trials],
            "present": None if self.present is None else _to_json(self.present),
        }
        atomic_write(folder / _FILE, json.dumps(values, ensure_ascii=False))


def read_state(folder: Path, identity: str) -> tuple[TuningState, bool]:
    """Return the state to go on from.

    Args:
        folder: The profile's folder.
        identity: Digest of everything that trials depend on now.

    Returns:
        The stored state, or a new one; and whether there was a stored one with another identity, or a damaged one.
    """
    try:
        values = json.loads((folder / _FILE).read_text("utf-8"))
        if values["identity"] != identity:
            return TuningState(identity), True
        present = values["present"]
        trials = [Trial.from_json(trial) for trial in values["trials"]]
        return TuningState(identity, trials, None if present is None else _from_json(present)), False
    except FileNotFoundError:
        return TuningState(identity), False
    except (OSError, ValueError, KeyError, TypeError):
        return TuningState(identity), True


def remove_state(folder: Path) -> None:
    """Remove the stored state of a profile.

    Args:
        folder: The profile's folder.
    """
    (folder / _FILE).unlink(missing_ok=True)


def tuning_identity(store: Store, config: Config, seed: int) -> str:
    """Return a digest of everything that the trials of a profile depend on.

    Args:
        store: The profile's store.
        config: Its settings.
        seed: Random seed of the tuning.

    Raises:
        UserError: If the file of general dialogues cannot be read.
    """
    # Skipped dialogues are no examples of the memory, and only edited ones have corrections to train on.
    annotations = [
        (
            a.id,
            a.dialogue_id,
            a.verdict,
            a.group,
            a.held_out,
            a.origin,
            None if a.preferred is None else a.preferred.key,
        )
        for a in store.annotations()
    ]
    rewrites = [(row.id, row.dialogue.key) for row in store.synthetic() if row.kept and row.dialogue is not None]
    pairs = [(row.dialogue_id, row.answer, row.chosen, row.rejected) for row in store.pairs.usable()]
    general = config.finetune.general_data
    values = {
        "version": version("mlx-personal"),
        "seed": seed,
        "model": store.fingerprint(),
        "settings": {name: dataclasses.asdict(getattr(config, name)) for name in _TABLES},
        "uses_memory": mode_in_use(store, config.memory).uses_memory,
        "annotations": annotations,
        "rewrites": rewrites,
        "pairs": pairs,
        "general": [dialogue.key for dialogue in load_dialogues(general)] if general else [],
        "buffer": [row.dialogue_id for row in store.bins()],
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _to_json(present: PresentOutputs) -> dict[str, Any]:
    outputs = [
        {
            "answers": [list(answers) for answers in part.answers],
            "losses": [dataclasses.asdict(loss) for loss in part.losses],
            "likelihoods": part.likelihoods.tolist(),
        }
        for part in present.outputs
    ]
    durations = {"training_s": present.training_s, "evaluation_s": present.evaluation_s}
    return {"outputs": outputs, "tokens": present.tokens, **durations}


def _from_json(values: dict[str, Any]) -> PresentOutputs:
    outputs = tuple(
        ModelOutputs(
            answers=part["answers"],
            losses=[AnswerLoss(**loss) for loss in part["losses"]],
            likelihoods=np.array(part["likelihoods"], np.float64),
        )
        for part in values["outputs"]
    )
    return PresentOutputs(outputs, values["tokens"], values["training_s"], values["evaluation_s"])
