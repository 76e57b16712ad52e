"""The rule of `rescue.h`, for NumPy."""

from __future__ import annotations

from typing import Final

import numpy as np

LARGEST_SQUARES: Final = 1e30
SMALLEST_SQUARES: Final = 1e-24


def rescue(squares: np.ndarray) -> np.ndarray:
    """For each sum of squares the power of two, float32, by which to multiply the values before squaring them again."""
    scale = np.where(squares <= LARGEST_SQUARES, np.float32(1), np.float32(2.0**-80))
    return np.where(squares < SMALLEST_SQUARES, np.float32(2.0**80), scale)
