"""Gradient checkpointing: blocks keep their inputs only and are computed again in the backward pass.

Activations shrink from some dozens of arrays a block to one, for about a third more time. mlx-lm's own changes the
blocks' class for the whole process; this changes single blocks and is undone. And a block's dropout is the same in both
passes, without which the gradient would be that of another loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn


@contextlib.contextmanager
def checkpointed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """These blocks are checkpointed inside the `with`; parameters, their names and other models stay as they are."""
    changed: list[tuple[nn.Module, Any]] = []

    def become(module: nn.Module, kind: Any) -> None:
        changed.append((module, type(module)))
        # Not `module.__class__ =`: a module takes what is assigned to it for a parameter.
        object.__setattr__(module, "__class__", kind)

    try:
        for block in blocks:
            if isinstance(block, _Checkpointed):
                continue
            keys = _Keys()
            for module in block.modules():
                if isinstance(module, nn.Dropout):
                    become(module, _dropping(type(module), keys))
            become(block, _checkpointing(type(block), keys))
        yield
    finally:
        for module, kind in reversed(changed):
            object.__setattr__(module, "__class__", kind)


class _Checkpointed:
    """Marks a block that is checkpointed already: some models use one block in several places."""


class _Keys:
    """Random keys that can be drawn again from where they began; MLX's own generator can only go on."""

    state: mx.array

    def next(self) -> mx.array:
        self.state, key = mx.random.split(self.state)
        return key


def _checkpointing(kind: Any, keys: _Keys) -> Any:
    """A subclass that only computes differently; Python looks `__call__` up on classes, never on instances."""

    def call(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        start = mx.random.randint(0, 2**31 - 1, (2,), mx.uint32)

        def compute(parameters: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            keys.state = start
            block.update(parameters)
            return kind.__call__(block, *args, **kwargs)

        return mx.checkpoint(compute)(block.trainable_parameters(), *args, **kwargs)

    return type(f"Checkpointed{kind.__name__}", (_Checkpointed, kind), {"__call__": call})


def _dropping(kind: Any, keys: _Keys) -> Any:
    """A subclass of `nn.Dropout` that draws from `keys`."""

    def call(dropout: Any, x: mx.array) -> mx.array:
        share = 1 - dropout._p_1
        if share == 0 or not dropout.training:
            return x
        return mx.where(mx.random.bernoulli(1 - share, x.shape, keys.next()), x / (1 - share), 0)

    return type(f"Repeatable{kind.__name__}", (kind,), {"__call__": call})
