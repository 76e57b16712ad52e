"""The dialogues that a cell trains on at a checkpoint.

These are the annotated dialogues and their synthetic ones, of which every policy gets the same number.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_personal.dialogue import Dialogue
from mlx_personal.finetune import Example
from mlx_personal.research.hashing import digest
from mlx_personal.research.study.cell import Cell
from mlx_personal.research.study.cell_selection import SelectionCheckpoint
from mlx_personal.synthesis import SynthesisConfig


@dataclass(frozen=True)
class CheckpointData:
    """The training data of a checkpoint.

    Attributes:
        metadata: Entries of the checkpoint's result, stored as they are.
        examples: Annotated and synthetic dialogues, grouped by original. Without any, the adapter of the previous
            checkpoint is kept.
    """

    metadata: dict[str, Any]
    examples: Sequence[Example]


def checkpoint_data(
    checkpoint: SelectionCheckpoint,
    annotated: Sequence[Dialogue],
    synthetic_dialogues: Mapping[str, Sequence[Dialogue]],
    synthetic: int,
) -> CheckpointData:
    """Return the training data of a checkpoint.

    Originals may have different numbers of synthetic dialogues. The first one of each original is taken, then the
    second one, and so on, so that all policies get the same number wherever there are enough.

    Args:
        checkpoint: The checkpoint.
        annotated: Its annotated dialogues.
        synthetic_dialogues: Available synthetic dialogues by the key of their original.
        synthetic: Synthetic dialogues per annotated one.
    """
    pools = [synthetic_dialogues.get(dialogue.key, ()) for dialogue in annotated]
    rounds = itertools.zip_longest(*pools)
    round_robin = [(i, d) for dialogues in rounds for i, d in enumerate(dialogues) if d is not None]
    chosen = round_robin[: synthetic * len(annotated)]
    metadata = {
        "received": checkpoint.received,
        "kept": checkpoint.selected,
        "questions": checkpoint.questions,
        "annotated": len(annotated),
        "synthetic": len(chosen),
    }
    return CheckpointData(metadata, [Example(d, group=i) for i, d in [*enumerate(annotated), *chosen]])


def synthesis_key(cell: Cell) -> str:
    """Return a hash of everything that decides a cell's synthetic dialogues; cells with the same key share them.

    The data set and the evaluation are included, because near-duplicates of evaluation dialogues are rejected.
    """
    settings = cell.to_json()
    relevant = ("protocol", "data", "source", "part", "evaluation", "model", "writer", "seed", "synthesis")
    return digest([settings[name] for name in relevant])


def synthesis_config(cell: Cell) -> SynthesisConfig:
    """Return the settings of a cell's synthetic dialogues, with the cell's seed."""
    return dataclasses.replace(cell.synthesis, seed=cell.seed)
