"""The weights of an adapter in one array, so that their norm, their sum over machines and AdamW are one operation each.

An adapter has hundreds of small matrices, and the overhead of separate operations exceeds the cost of their arithmetic.
"""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_personal.finetune.forward.losses import Weights


class FlatParameters:
    """The layout of weights in one float32 array [P].

    Args:
        weights: Weights whose names and shapes define the layout, nested as in the model.
    """

    def __init__(self, weights: Weights):
        self._shapes = {name: weight.shape for name, weight in tree_flatten(weights)}
        self._offsets = np.cumsum([math.prod(shape) for shape in self._shapes.values()]).tolist()[:-1]

    def flatten(self, weights: Weights) -> mx.array:
        """Return the weights as one array [P].

        Args:
            weights: Weights of this layout, nested as in the model.
        """
        by_name = dict(tree_flatten(weights))
        return mx.concatenate([by_name[name].reshape(-1) for name in self._shapes])

    def unflatten(self, flat: mx.array) -> Weights:
        """Return the weights nested as in the model; they share the array's memory.

        Args:
            flat: Array [P] of this layout.
        """
        arrays = mx.split(flat, self._offsets)
        weights: Weights = tree_unflatten(
            [(name, array.reshape(shape)) for (name, shape), array in zip(self._shapes.items(), arrays, strict=True)]
        )
        return weights
