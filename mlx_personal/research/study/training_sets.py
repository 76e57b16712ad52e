"""What a cell learns at a checkpoint: the annotated sets, and as many synthetic ones for every policy."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from mlx_personal.dialogue import Dialogue
from mlx_personal.research.study.cell import Cell, digest
from mlx_personal.research.study.cell_jobs import Lesson
from mlx_personal.research.study.cell_selection import Kept
from mlx_personal.synthesis import SynthesisConfig


def written_by(cell: Cell) -> str:
    """What makes the synthetic sets of this cell, in one name: cells that share it share the sets.

    Data set and evaluation are part of it, since nothing near an evaluation dialogue is written.
    """
    settings = cell.to_json()
    decisive = ("protocol", "data", "source", "part", "evaluation", "model", "writer", "seed", "synthesis")
    return digest([settings[name] for name in decisive])


def synthesis_of(cell: Cell) -> SynthesisConfig:
    """The settings of the writing, with the cell's seed."""
    return dataclasses.replace(cell.synthesis, seed=cell.seed)


def lesson(
    kept: Kept, annotated: Sequence[Dialogue], written: Mapping[str, Sequence[Dialogue]], synthetic: int
) -> Lesson:
    """The lesson of a checkpoint.

    Args:
        kept: the checkpoint; `annotated`: its annotated sets.
        written: the synthetic sets there are, by their original's key; some have many, some none.
        synthetic: sets wanted for each annotated one. So that all policies get the same number, what one original lacks
            others give: the first of each is taken, then the second, until there are enough or no more.
    """
    pools = [written.get(dialogue.key, ()) for dialogue in annotated]
    rounds = itertools.zip_longest(*pools)
    in_turn = [(i, d) for one in rounds for i, d in enumerate(one) if d is not None]
    taken = in_turn[: synthetic * len(annotated)]
    facts = {
        "received": kept.received,
        "kept": kept.kept,
        "questions": kept.questions,
        "annotated": len(annotated),
        "synthetic": len(taken),
    }
    return Lesson(facts, [*annotated, *(d for _, d in taken)], [*range(len(annotated)), *(i for i, _ in taken)])
