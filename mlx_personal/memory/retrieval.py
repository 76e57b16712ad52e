"""Rank the entries of a memory by how near they are to a question, by one similarity or by several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

# The constant of reciprocal rank fusion, with which [Cormack09] reports its results.
_RANK_CONSTANT: Final = 60
# Number of entries that each similarity ranks, the nearest ones; the others add nothing to the fusion.
_DEPTH: Final = 100


def rank_entries(
    similarities: Sequence[np.ndarray],
    is_annotated: np.ndarray,
    is_allowed: np.ndarray,
    min_similarity: float,
    count: int,
) -> list[tuple[int, float]]:
    """Return the nearest entries: first annotated ones by nearness, then the others by nearness.

    An entry is ranked by each similarity that is at least `min_similarity`; one that no similarity ranks is left out.
    With several similarities the order is that of the sum of 1 / (60 + rank) over them [Cormack09]. Of entries that
    are equally near the later one comes first.

    Args:
        similarities: The similarity of each of the N entries by each retrieval, float32 [N].
        is_annotated: Whether an entry is annotated, bool [N].
        is_allowed: Whether an entry may be returned, bool [N].
        min_similarity: Smallest similarity of an entry.
        count: Maximum number of entries.

    Returns:
        The indices of the entries, each with its largest similarity.
    """
    ranked: list[tuple[int, float]] = []
    for tier in (is_annotated, ~is_annotated):
        fused: dict[int, float] = {}
        for similarity in similarities:
            candidates = np.flatnonzero(tier & is_allowed & (similarity >= min_similarity))
            for rank, entry in enumerate(_largest(similarity, candidates, max(count, _DEPTH)), 1):
                fused[entry] = fused.get(entry, 0.0) + 1 / (_RANK_CONSTANT + rank)
        nearest = {entry: max(float(similarity[entry]) for similarity in similarities) for entry in fused}
        order = sorted(fused, key=lambda entry: (-fused[entry], -nearest[entry], -entry))
        ranked += [(entry, nearest[entry]) for entry in order]
    return ranked[:count]


def _largest(values: np.ndarray, candidates: np.ndarray, count: int) -> list[int]:
    """Return the candidates with the largest values, the largest first; of equal ones the last comes first."""
    if len(candidates) > count:
        threshold = np.partition(values[candidates], -count)[-count]
        candidates = candidates[values[candidates] >= threshold]
    order = np.lexsort((-candidates, -values[candidates]))
    return [int(entry) for entry in candidates[order[:count]]]
