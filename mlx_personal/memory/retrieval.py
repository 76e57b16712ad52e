"""Rank the entries of a memory by how near they are to a question, by one similarity or by several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

# The constant of reciprocal rank fusion, with which [Cormack09] reports its results.
_RANK_CONSTANT: Final = 60
# Number of entries that each similarity ranks, the nearest ones; the others add nothing to the fusion.
_DEPTH: Final = 100


@dataclass(frozen=True)
class RankedEntry:
    """An entry that is near a question.

    Attributes:
        index: Its index.
        similarity: Its largest similarity.
        score: Sum of 1 / (60 + rank) over the similarities that rank it [Cormack09]; larger is nearer.
    """

    index: int
    similarity: float
    score: float


def rank_entries(
    similarities: Sequence[np.ndarray],
    is_annotated: np.ndarray,
    is_allowed: np.ndarray,
    min_similarities: Sequence[float],
    count: int,
) -> list[RankedEntry]:
    """Return the nearest entries: first annotated ones by nearness, then the others by nearness.

    An entry is ranked by each similarity that is at least the smallest one of its retrieval; one that no similarity
    ranks is left out.
    With several similarities the order is that of the sum of 1 / (60 + rank) over them [Cormack09], where annotated
    entries and the others are ranked together. Of entries that are equally near the later one comes first.

    Args:
        similarities: The similarity of each of the N entries by each retrieval, float32 [N].
        is_annotated: Whether an entry is annotated, bool [N].
        is_allowed: Whether an entry may be returned, bool [N].
        min_similarities: The smallest similarity of an entry by each retrieval, whose scales differ.
        count: Maximum number of entries.

    Returns:
        The entries.
    """
    scores: dict[int, float] = {}
    for similarity, smallest in zip(similarities, min_similarities, strict=True):
        # Enough of both, so that many near entries without an annotation do not displace annotated ones.
        near = [
            index
            for tier in (is_annotated, ~is_annotated)
            for index in _largest(
                similarity, np.flatnonzero(tier & is_allowed & (similarity >= smallest)), max(count, _DEPTH)
            )
        ]
        for rank, index in enumerate(_largest(similarity, np.array(near, int), len(near)), 1):
            scores[index] = scores.get(index, 0.0) + 1 / (_RANK_CONSTANT + rank)
    ranked = [RankedEntry(i, max(float(s[i]) for s in similarities), score) for i, score in scores.items()]
    ranked.sort(key=lambda entry: (not is_annotated[entry.index], -entry.score, -entry.similarity, -entry.index))
    return ranked[:count]


def _largest(values: np.ndarray, candidates: np.ndarray, count: int) -> list[int]:
    """Return the candidates with the largest values, the largest first; of equal ones the last comes first."""
    if len(candidates) > count:
        threshold = np.partition(values[candidates], -count)[-count]
        candidates = candidates[values[candidates] >= threshold]
    order = np.lexsort((-candidates, -values[candidates]))
    return [int(entry) for entry in candidates[order[:count]]]
