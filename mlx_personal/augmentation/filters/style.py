"""`style`: a candidate lies about as near to the user's records as these lie to each other."""

from __future__ import annotations

import numpy as np

# Fewer own records say nothing about how far they lie from each other.
_FEWEST = 3
# Cosines of unit vectors are rounded; below this, two are one.
_ROUNDING = 1e-6


def own_band(vectors: np.ndarray, shares: tuple[float, float]) -> tuple[float, float]:
    """The lowest and highest distance (1 - cosine) that a candidate may have to the user's nearest record.

    In distances and not in cosines, whose usual size differs from model to model: `shares` of the median and of the
    largest distance from one of the user's records to the nearest other one. No bounds for fewer than 3 records.

    Args:
        vectors: of the user's records, [M, D], unit norm.
    """
    if len(vectors) < _FEWEST:
        return -np.inf, np.inf
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    distances = 1.0 - cosines.max(axis=1)
    low, high = shares[0] * float(np.median(distances)), shares[1] * float(distances.max())
    return low - _ROUNDING, high + _ROUNDING
