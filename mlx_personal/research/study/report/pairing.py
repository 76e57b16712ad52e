"""Two groups of cells side by side: the seeds and dialogues that both have, and what their scores differ by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlx_personal.errors import UserError
from mlx_personal.research.study.report import statistics
from mlx_personal.research.study.report.cell_group import Group
from mlx_personal.research.study.report.statistics import Difference


def shared(group: Group, other: Group) -> list[int]:
    """The seeds that both have."""
    return [seed for seed in group.results if seed in other.results]


def difference(group: Group, other: Group, score: str) -> Difference | None:
    """In `rouge1` or `rougeL` at the end, on the shared seeds; None without one."""
    seeds = shared(group, other)
    if not seeds:
        return None
    return statistics.difference(*alike(group, group.scores(score, seeds), other, other.scores(score, seeds)))


def alike(group: Group, scores: np.ndarray, other: Group, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores [seeds, dialogues] of two groups, one row of `others` standing for all; UserError if they are of other
    dialogues."""
    if scores.shape[1] != others.shape[1]:
        which = f"{group.cell.policy} has {scores.shape[1]} dialogues, {other.cell.policy} {others.shape[1]}"
        raise UserError(f"they cannot be compared: {which}", group.cell.data, "run these cells again in a new folder")
    return scores, np.broadcast_to(others, scores.shape)


def corrected(family: Mapping[Any, Difference]) -> dict[Any, Difference]:
    """The same differences, adjusted by Holm over all of them."""
    adjusted = statistics.holm([d.p for d in family.values()])
    return {name: dataclasses.replace(d, adjusted=p) for (name, d), p in zip(family.items(), adjusted, strict=True)}
