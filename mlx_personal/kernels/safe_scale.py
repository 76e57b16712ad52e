"""Scale vectors whose squares would overflow or vanish in float32: the NumPy form of `safe_scale.h`."""

from __future__ import annotations

from typing import Final

import numpy as np

LARGEST_SQUARES: Final = 1e30
SMALLEST_SQUARES: Final = 1e-24


def safe_scale(squares: np.ndarray) -> np.ndarray:
    """Return the factors by which to multiply values before they are squared again.

    Args:
        squares: Sums of squares, any shape.

    Returns:
        Powers of two, float32, of the same shape: 1 for sums that neither overflow nor vanish.
    """
    scale = np.where(squares <= LARGEST_SQUARES, np.float32(1), np.float32(2.0**-80))
    return np.where(squares < SMALLEST_SQUARES, np.float32(2.0**80), scale)
