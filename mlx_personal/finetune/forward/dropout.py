"""Dropout with reproducible random numbers.

MLX has one random generator for the whole process, which can only advance. A resumed training and a checkpointed layer
both have to draw the same dropout mask again.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_personal.finetune.forward.patching import Patch, patched
from mlx_personal.runtime.device import device_name


class RandomKeys:
    """A sequence of random keys.

    Args:
        seed: Numbers to start from, as in `reseed`.

    Attributes:
        state: The next key.
    """

    state: tuple[int, ...]

    def __init__(self, *seed: int):
        self.reseed(*seed)

    def reseed(self, *seed: int) -> None:
        """Start again from these numbers; each key consists of them and a counter."""
        self.state = (*seed, 0)

    def next(self) -> tuple[int, ...]:
        """Return the next key."""
        key = self.state
        self.state = (*key[:-1], key[-1] + 1)
        return key


@contextlib.contextmanager
def keyed_dropout(layers: Sequence[nn.Module], keys: RandomKeys) -> Iterator[None]:
    """Let the dropout of these layers draw from `keys`, inside the `with` block.

    Args:
        layers: Transformer layers of the model.
        keys: Source of the random numbers; each call of a dropout module takes one key.

    Yields:
        Nothing.
    """
    modules = {id(m): m for layer in layers for m in layer.modules() if isinstance(m, nn.Dropout)}
    with patched([(module, _dropout_patch(module, keys)) for module in modules.values()]):
        yield


def _dropout_patch(module: nn.Dropout, keys: RandomKeys) -> Patch:
    keep_probability: float = module._p_1

    def dropout(_: Callable[..., Any], x: mx.array) -> mx.array:
        if keep_probability == 1 or not module.training:
            return x
        return x * _mask(keep_probability, x.shape, keys.next()).astype(x.dtype)

    return dropout


def _mask(keep_probability: float, shape: Sequence[int], key: Sequence[int]) -> mx.array:
    """Return an array of 0 and 1 / keep_probability."""
    seed = np.random.SeedSequence(key)
    if device_name() != "cpu":
        number = int(seed.generate_state(1, np.uint64)[0])
        return mx.random.bernoulli(keep_probability, shape, mx.random.key(number)) / keep_probability
    # MLX's generator takes 6 ns a number on a CPU, a fifth of a small model's training; two bytes of NumPy's half of 1.
    size = math.prod(shape)
    rng = np.random.Generator(np.random.SFC64(seed))
    drawn = rng.integers(0, 2**64 - 1, -(-size // 4), np.uint64, endpoint=True).view(np.uint16)[:size]
    return mx.array(np.multiply(drawn < round(keep_probability * 2**16), np.float32(1 / keep_probability))).reshape(
        shape
    )
