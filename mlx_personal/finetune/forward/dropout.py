"""Dropout from random numbers of the training's own, which can be drawn again from where they began.

MLX has one generator for the whole process, which can only go on. A resumed training and a checkpointed block both have
to drop the same places again.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_personal.finetune.forward.patching import patched
from mlx_personal.runtime.device import device_name


class RandomKeys:
    """Random keys, one after the other; `state` is the one that comes next."""

    state: tuple[int, ...]

    def __init__(self, *seed: int):
        self.seed(*seed)

    def seed(self, *seed: int) -> None:
        """Begins anew from these numbers; the keys are they and a count."""
        self.state = (*seed, 0)

    def next(self) -> tuple[int, ...]:
        key = self.state
        self.state = (*key[:-1], key[-1] + 1)
        return key


@contextlib.contextmanager
def keyed_dropout(blocks: Sequence[nn.Module], keys: RandomKeys) -> Iterator[None]:
    """Inside the `with`, the dropout of these blocks draws from `keys`."""
    modules = {id(m): m for block in blocks for m in block.modules() if isinstance(m, nn.Dropout)}
    with patched([(module, _drop(module, keys)) for module in modules.values()]):
        yield


def _drop(module: nn.Dropout, keys: RandomKeys):  # type: ignore[no-untyped-def]
    kept = module._p_1

    def drop(_: object, x: mx.array) -> mx.array:
        if kept == 1 or not module.training:
            return x
        return x * _factors(kept, x.shape, keys.next()).astype(x.dtype)

    return drop


def _factors(kept: float, shape: Sequence[int], key: Sequence[int]) -> mx.array:
    """0 or 1 / kept, the latter for this share of them."""
    seed = np.random.SeedSequence(key)
    if device_name() != "cpu":
        number = int(seed.generate_state(1, np.uint64)[0])
        return mx.random.bernoulli(kept, shape, mx.random.key(number)) / kept
    # MLX's generator takes 6 ns a number on a CPU, a fifth of a small model's training; two bytes of NumPy's half of 1.
    size = math.prod(shape)
    rng = np.random.Generator(np.random.SFC64(seed))
    drawn = rng.integers(0, 2**64 - 1, -(-size // 4), np.uint64, endpoint=True).view(np.uint16)[:size]
    return mx.array(np.multiply(drawn < round(kept * 2**16), np.float32(1 / kept))).reshape(shape)
