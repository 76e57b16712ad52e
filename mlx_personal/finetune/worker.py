"""Train on several machines: rank 0 has the profile and broadcasts the training job to the workers.

Under `mlx.launch` the same command runs on all machines, but the dialogues and settings are on one machine only. It
broadcasts them to the others, which load the same base model by its name, train together with it, and write nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from pathlib import Path

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.data.examples import Example, PreferencePair
from mlx_personal.finetune.distributed import ProcessGroup
from mlx_personal.finetune.report import TrainingReport
from mlx_personal.finetune.trainer import finetune
from mlx_personal.models import LanguageModel, load_language_model
from mlx_personal.models.loading import fingerprint

logger = logging.getLogger(__name__)

# Workers write nothing to this path.
_UNUSED_PATH = Path("nowhere")


def broadcast_job(
    process_group: ProcessGroup,
    lm: LanguageModel,
    examples: Sequence[Example],
    config: LoRAConfig,
    general: Sequence[Dialogue],
    pairs: Sequence[PreferencePair] = (),
) -> None:
    """Send a training job to the other processes of the group; do nothing in a group of one.

    Rank 0 calls this immediately before `finetune` with the same arguments.

    Args:
        process_group: The processes that train together.
        lm: The base model.
        examples: The dialogues to train on.
        config: Settings of the training run.
        general: General dialogues.
        pairs: Preference pairs.

    Raises:
        UserError: If the base model was not loaded from a folder.
    """
    if process_group.size == 1:
        return
    if lm.path is None or lm.name is None:
        raise UserError("a model that was created in memory cannot be trained on several machines")
    # Groups may be any hashable objects; only which examples share one matters.
    numbers: dict[Hashable, int] = {}

    def number(member: Example | PreferencePair) -> int | None:
        return None if member.group is None else numbers.setdefault(member.group, len(numbers))

    process_group.broadcast(
        {
            "model": lm.name,
            "fingerprint": fingerprint(lm.path),
            "dialogues": [e.dialogue.to_messages() for e in examples],
            "groups": [number(e) for e in examples],
            "weights": [e.weight for e in examples],
            "config": config.to_json(),
            "general": [d.to_messages() for d in general],
            "pairs": [(p.chosen.to_messages(), p.rejected.to_messages(), number(p)) for p in pairs],
        }
    )


def run_worker(process_group: ProcessGroup) -> TrainingReport:
    """Wait for a training job, take part in it, and return its report. Every rank but 0 calls this.

    Args:
        process_group: The processes that train together.

    Returns:
        The report, as on rank 0.

    Raises:
        UserError: If the base model on this machine is another one.
    """
    job = process_group.broadcast(None)
    lm = load_language_model(job["model"])
    if lm.path is None or fingerprint(lm.path) != job["fingerprint"]:
        raise UserError("the base model here is not the one that is trained", job["model"], "copy it to this machine")
    logger.info("rank %d of %d joins a training run", process_group.rank, process_group.size)
    return finetune(
        lm,
        [
            Example(Dialogue.from_messages(messages), group, weight)
            for messages, group, weight in zip(job["dialogues"], job["groups"], job["weights"], strict=True)
        ],
        LoRAConfig.from_json(job["config"]),
        _UNUSED_PATH,
        general=[Dialogue.from_messages(messages) for messages in job["general"]],
        pairs=[
            PreferencePair(Dialogue.from_messages(chosen), Dialogue.from_messages(rejected), group)
            for chosen, rejected, group in job["pairs"]
        ],
        checkpoint_folder=_UNUSED_PATH,
        process_group=process_group,
    )
