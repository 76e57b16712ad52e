"""IDD, the in-domain dissimilarity [Qin24 §3.2]: how different a dialogue is from the selected ones of its domain.

IDD = 1/R * sum over the R selected dialogues of the domain of (1 - cos), clipped to 0..1. Because vectors have unit
norm, the mean of the cosines is one product with the running sum of the vectors: O(D) per dialogue for any R.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def in_domain_dissimilarity(vector: np.ndarray, domain_sum: np.ndarray | None, count: int) -> float:
    """Return the mean cosine distance from one vector to the others of its domain, 0..1; 1 if there are none.

    Args:
        vector: Embedding of the dialogue, [D] of unit norm.
        domain_sum: Sum of the other vectors, float64 [D]; None if there are none.
        count: Number of the other vectors.
    """
    if domain_sum is None or count == 0:
        return 1.0
    return float(np.clip(1.0 - vector.astype(np.float64) @ domain_sum / count, 0.0, 1.0))


def leave_one_out_dissimilarity(vectors: np.ndarray, domain_sum: np.ndarray) -> np.ndarray:
    """Return the mean cosine distance of each vector of a domain to the others, [N]; 1 for a single vector.

    Args:
        vectors: Embeddings, [N, D] of unit norm.
        domain_sum: Their sum, float64 [D].
    """
    if len(vectors) < 2:
        return np.ones(len(vectors))
    exact = vectors.astype(np.float64)
    cosines = exact @ domain_sum - np.square(exact).sum(axis=1)
    return np.clip(1.0 - cosines / (len(vectors) - 1), 0.0, 1.0)


def in_domain_dissimilarity_reference(vector: np.ndarray, others: Sequence[np.ndarray]) -> float:
    """Return the IDD by its definition: the reference for the functions above.

    Args:
        vector: Embedding of the dialogue, [D].
        others: The other vectors, each [D].
    """
    if not others:
        return 1.0
    exact = vector.astype(np.float64)
    distances = []
    for other in others:
        exact_other = other.astype(np.float64)
        norms = float(np.linalg.norm(exact) * np.linalg.norm(exact_other))
        distances.append(1.0 - float(exact @ exact_other) / norms if norms > 0 else 1.0)
    return min(1.0, max(0.0, sum(distances) / len(distances)))
