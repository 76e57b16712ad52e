"""Dropout from random numbers of the training's own, which can be drawn again from where they began.

MLX has one generator for the whole process, which can only go on. A resumed training and a checkpointed block both have
to drop the same places again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_personal.backend.device import device_name
from mlx_personal.finetune.calls import calling


class Keys:
    """Random keys, one after the other; `state` is the key the next one comes from."""

    def __init__(self, *seed: int):
        self.seed(*seed)

    def seed(self, *seed: int) -> None:
        """Begins anew from these numbers."""
        number = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
        self.state = mx.random.key(int(number))

    def next(self) -> mx.array:
        self.state, key = mx.random.split(self.state)
        return key


@contextlib.contextmanager
def dropping(blocks: Sequence[nn.Module], keys: Keys) -> Iterator[None]:
    """Inside the `with`, the dropout of these blocks draws from `keys`."""
    modules = {id(m): m for block in blocks for m in block.modules() if isinstance(m, nn.Dropout)}
    with calling([(module, _drop(module, keys)) for module in modules.values()]):
        yield


def _drop(module: nn.Dropout, keys: Keys):  # type: ignore[no-untyped-def]
    kept = module._p_1

    def drop(_: object, x: mx.array) -> mx.array:
        if kept == 1 or not module.training:
            return x
        return mx.where(_drawn(kept, x.shape, keys.next()), x / kept, 0)

    return drop


def _drawn(share: float, shape: Sequence[int], key: mx.array) -> mx.array:
    """Booleans, of which this share is true."""
    if device_name() != "cpu":
        return mx.random.bernoulli(share, shape, key)
    # MLX's generator takes 6 ns a number on a CPU, a fifth of a small model's training; two bytes of NumPy's take 1.
    rng = np.random.Generator(np.random.SFC64(np.array(key).tolist()))
    return mx.array(rng.integers(0, 1 << 16, shape, np.uint16) < round(share * (1 << 16)))
