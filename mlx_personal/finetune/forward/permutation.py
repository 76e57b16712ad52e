"""Permute the rows of a matrix, with a gradient that is a permutation too.

MLX's own gradient of indexing adds rows up at their origins, one number at a time. Where no row is taken twice there
is nothing to add.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np


class Permutation:
    """Select and permute rows, from A rows to B rows.

    Args:
        origins: int [B], the row that each result comes from, each at most once. -1 marks padding, which is filled with
            arbitrary numbers that must not contribute to any result.
        count: A, the number of input rows.
    """

    def __init__(self, origins: np.ndarray, count: int):
        self._origins = mx.array(np.maximum(origins, 0).astype(np.int32))
        real = np.flatnonzero(origins >= 0)
        # Rows that are not taken get the gradient at index `len(origins)`, a row of zeros.
        destinations = np.full(count, len(origins), np.int32)
        destinations[origins[real]] = real
        self._destinations = mx.array(destinations)
        self._all_taken = len(real) == count

    def __call__(self, x: mx.array) -> mx.array:
        """Return the permuted rows.

        Args:
            x: [A, D].

        Returns:
            [B, D].
        """

        @mx.custom_function
        def take(x: mx.array) -> mx.array:
            return x[self._origins]

        @take.vjp
        def take_vjp(_: object, cotangent: mx.array, __: object) -> mx.array:
            if not self._all_taken:
                cotangent = mx.concatenate([cotangent, mx.zeros((1, cotangent.shape[1]), cotangent.dtype)])
            return cotangent[self._destinations]

        taken: Any = take(x)
        return taken
