"""An adapter's weights in one array: its norm, its sum over machines and a step of AdamW are one operation each.

An adapter is some hundred small matrices, and each operation on each of them costs more than its numbers do.
"""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_personal.finetune.forward.losses import Weights


class FlatParameters:
    """How weights like these lie in one float32 array [P]."""

    def __init__(self, weights: Weights):
        self._shapes = {name: weight.shape for name, weight in tree_flatten(weights)}
        self._cuts = np.cumsum([math.prod(shape) for shape in self._shapes.values()]).tolist()[:-1]

    def flat(self, weights: Weights) -> mx.array:
        found = dict(tree_flatten(weights))
        return mx.concatenate([found[name].reshape(-1) for name in self._shapes])

    def nested(self, flat: mx.array) -> Weights:
        """The weights as the model names them; they share the array's memory."""
        parts = mx.split(flat, self._cuts)
        found: Weights = tree_unflatten(
            [(name, part.reshape(shape)) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)]
        )
        return found
