"""Permute the rows of a matrix, with a permutation as gradient.

MLX's gradient of indexing adds rows at their origins, one number at a time. If no row is selected twice, nothing has to
be added.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np


class Permutation:
    """Select and permute rows, from A rows to B rows.

    Args:
        origins: The input row of each output row, int [B]; each at most once. -1 marks padding, which is filled with
            arbitrary numbers that must not affect any result.
        count: Number of input rows, A.
    """

    def __init__(self, origins: np.ndarray, count: int):
        self._origins = mx.array(np.maximum(origins, 0).astype(np.int32))
        real = np.flatnonzero(origins >= 0)
        # Rows that are not selected have the gradient at index `len(origins)`, a row of zeros.
        destinations = np.full(count, len(origins), np.int32)
        destinations[origins[real]] = real
        self._destinations = mx.array(destinations)
        self._all_selected = len(real) == count

    def __call__(self, x: mx.array) -> mx.array:
        """Return the permuted rows.

        Args:
            x: [A, D].

        Returns:
            [B, D].
        """

        @mx.custom_function
        def select(x: mx.array) -> mx.array:
            return x[self._origins]

        @select.vjp
        def select_vjp(_: object, cotangent: mx.array, __: object) -> mx.array:
            if not self._all_selected:
                cotangent = mx.concatenate([cotangent, mx.zeros((1, cotangent.shape[1]), cotangent.dtype)])
            return cotangent[self._destinations]

        selected: Any = select(x)
        return selected
