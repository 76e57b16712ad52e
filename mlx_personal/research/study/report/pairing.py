"""Pair two groups of cells on their common seeds and dialogues."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

from mlx_personal.errors import UserError
from mlx_personal.research.study.report import statistics
from mlx_personal.research.study.report.cell_group import CellGroup
from mlx_personal.research.study.report.statistics import PairedDifference

Key = TypeVar("Key", bound=Hashable)


def common_seeds(group: CellGroup, other: CellGroup) -> list[int]:
    """Return the seeds that both groups have."""
    return [seed for seed in group.results if seed in other.results]


def score_difference(group: CellGroup, other: CellGroup, score: str) -> PairedDifference | None:
    """Return the difference of two groups at the end of the stream.

    Args:
        group: A group.
        other: The group to compare with.
        score: `rouge1` or `rougeL`.

    Returns:
        The difference on the common seeds; None without any.
    """
    seeds = common_seeds(group, other)
    if not seeds:
        return None
    scores, other_scores = group.scores(score, seeds), other.scores(score, seeds)
    return statistics.paired_difference(*broadcast_scores(group, scores, other, other_scores))


def broadcast_scores(
    group: CellGroup, scores: np.ndarray, other: CellGroup, other_scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of two groups in the same shape.

    Args:
        group: A group.
        scores: Its scores, [seeds, dialogues].
        other: The group to compare with.
        other_scores: Its scores, [seeds, dialogues], or [1, dialogues] for a group without seeds.

    Raises:
        UserError: If the groups were evaluated on different numbers of dialogues.
    """
    if scores.shape[1] != other_scores.shape[1]:
        counts = f"{group.cell.policy} has {scores.shape[1]} dialogues, {other.cell.policy} {other_scores.shape[1]}"
        raise UserError(f"they cannot be compared: {counts}", group.cell.data, "run these cells again in a new folder")
    return scores, np.broadcast_to(other_scores, scores.shape)


def holm_corrected(family: Mapping[Key, PairedDifference]) -> dict[Key, PairedDifference]:
    """Return the differences of a family with p-values adjusted by Holm's correction over all of them."""
    adjusted = statistics.holm_adjusted([d.p_value for d in family.values()])
    return {
        key: dataclasses.replace(d, adjusted_p_value=p) for (key, d), p in zip(family.items(), adjusted, strict=True)
    }
