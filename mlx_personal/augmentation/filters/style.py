"""The `style` filter: a candidate lies about as near to the user's records as these lie to each other."""

from __future__ import annotations

import numpy as np

# Fewer records say nothing about their usual distance.
_MIN_RECORDS = 3
# Rounding error of the cosine of two unit vectors.
_ROUNDING = 1e-6


def distance_band(own_vectors: np.ndarray, band: tuple[float, float]) -> tuple[float, float]:
    """Return the lowest and highest distance (1 - cosine) that a candidate may have to the user's nearest record.

    The band is relative to the distances of the user's records to their nearest neighbors, because the usual size of
    cosines differs from model to model.

    Args:
        own_vectors: Unit vectors of the user's M records, [M, D].
        band: The bounds as fractions of the median and of the largest of those distances.

    Returns:
        The bounds; infinite for fewer than 3 records.
    """
    if len(own_vectors) < _MIN_RECORDS:
        return -np.inf, np.inf
    cosines = own_vectors @ own_vectors.T
    np.fill_diagonal(cosines, -np.inf)
    distances = 1.0 - cosines.max(axis=1)
    low, high = band[0] * float(np.median(distances)), band[1] * float(distances.max())
    return low - _ROUNDING, high + _ROUNDING
