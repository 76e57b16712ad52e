"""Several machines and one owner: the first process has the profile, the others get all they need from it.

Under `mlx.launch` the same command runs everywhere, but dialogues and settings lie on one machine only. It invites the
others, which load the same base model by its name, train along, and write nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.distributed import ProcessGroup
from mlx_personal.finetune.report import TrainingReport
from mlx_personal.finetune.trainer import finetune
from mlx_personal.models import LanguageModel, load_language_model
from mlx_personal.models.language_model import fingerprint

# Never written to: a path that says so if it is.
_NOWHERE = Path("nowhere")


def broadcast_job(
    group: ProcessGroup,
    lm: LanguageModel,
    dialogues: Sequence[Dialogue],
    config: LoRAConfig,
    sources: Sequence[object],
    general: Sequence[Dialogue],
    weights: Sequence[float] | None = None,
) -> None:
    """Called by rank 0 right before `finetune` with the same arguments; does nothing where it is alone."""
    if group.size == 1:
        return
    if lm.path is None or lm.name is None:
        raise UserError("a model that was made in memory cannot be trained on several machines")
    group.from_first(
        {
            "model": lm.name,
            "fingerprint": fingerprint(lm.path),
            "dialogues": [d.to_messages() for d in dialogues],
            "config": dataclasses.asdict(config),
            "sources": list(sources),
            "weights": None if weights is None else list(weights),
            "general": [d.to_messages() for d in general],
        }
    )


def run_worker(group: ProcessGroup) -> TrainingReport:
    """Called by every other rank: waits to be invited, trains along, and returns the same report.

    UserError if this machine's base model is not the same.
    """
    invited = group.from_first(None)
    lm = load_language_model(invited["model"])
    if lm.path is None or fingerprint(lm.path) != invited["fingerprint"]:
        raise UserError("the base model here is not the one that is trained", invited["model"], "copy it to here")
    return finetune(
        lm,
        [Dialogue.from_messages(messages) for messages in invited["dialogues"]],
        LoRAConfig(**invited["config"]),
        _NOWHERE,
        sources=invited["sources"],
        weights=invited["weights"],
        general=[Dialogue.from_messages(messages) for messages in invited["general"]],
        states=_NOWHERE,
        group=group,
    )
