"""Rows of numbers in another order, with a gradient that is no more than another order either.

MLX's own gradient of taking rows adds them up at their places, one number after the other. Where no row is taken twice
there is nothing to add up.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np


class Permutation:
    """From A rows to the B rows that `origins` (int [B]) names, each at most once.

    Places of -1 are padding: they are filled with whatever is at hand, and nothing may come of them.
    """

    def __init__(self, origins: np.ndarray, count: int):
        self._origins = mx.array(np.maximum(origins, 0).astype(np.int32))
        real = np.flatnonzero(origins >= 0)
        # `len(origins)` is a row of zeros behind the slopes.
        destinations = np.full(count, len(origins), np.int32)
        destinations[origins[real]] = real
        self._destinations = mx.array(destinations)
        self._all_taken = len(real) == count

    def __call__(self, x: mx.array) -> mx.array:
        """[A, D] to [B, D]."""

        @mx.custom_function
        def take(x: mx.array) -> mx.array:
            return x[self._origins]

        @take.vjp
        def take_vjp(_: object, slope: mx.array, __: object) -> mx.array:
            if not self._all_taken:
                slope = mx.concatenate([slope, mx.zeros((1, slope.shape[1]), slope.dtype)])
            return slope[self._destinations]

        taken: Any = take(x)
        return taken
