"""IDD, the in-domain dissimilarity (paper 1, 3.2): what a dialogue adds to those kept of its dominant domain.

IDD = 1/R * sum over the R kept dialogues of the domain of (1 - cos), clipped to 0..1. Since vectors have unit norm, the
mean of the cosines is one product with their running sum: O(D) a dialogue, however many are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def in_domain_dissimilarity(vector: np.ndarray, domain_sum: np.ndarray | None, count: int) -> float:
    """Mean cosine distance from one vector to `count` others, 0..1; 1 where there are none.

    Args:
        vector: [D], unit norm.
        domain_sum: the others' sum [D], in float64; None where there are none.
        count: how many they are.
    """
    if domain_sum is None or count == 0:
        return 1.0
    return float(np.clip(1.0 - vector.astype(np.float64) @ domain_sum / count, 0.0, 1.0))


def leave_one_out_dissimilarity(vectors: np.ndarray, domain_sum: np.ndarray) -> np.ndarray:
    """For each of n vectors of one domain, the mean cosine distance to the n - 1 others, [n]; 1 for a lone one.

    Args:
        vectors: [n, D], unit norm.
        domain_sum: their sum [D], in float64.
    """
    if len(vectors) < 2:
        return np.ones(len(vectors))
    exact = vectors.astype(np.float64)
    cosines = exact @ domain_sum - np.square(exact).sum(axis=1)
    return np.clip(1.0 - cosines / (len(vectors) - 1), 0.0, 1.0)


def in_domain_dissimilarity_reference(vector: np.ndarray, others: Sequence[np.ndarray]) -> float:
    """The definition, over the list of the others: what both forms above must equal."""
    if not others:
        return 1.0
    one = vector.astype(np.float64)
    distances = []
    for other in others:
        two = other.astype(np.float64)
        norms = float(np.linalg.norm(one) * np.linalg.norm(two))
        distances.append(1.0 - float(one @ two) / norms if norms > 0 else 1.0)
    return min(1.0, max(0.0, sum(distances) / len(distances)))
