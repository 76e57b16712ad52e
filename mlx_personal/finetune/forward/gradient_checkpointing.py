"""Gradient checkpointing: blocks keep their inputs only and are computed again in the backward pass.

Activations shrink from some dozens of arrays a block to one, for about a third more time. mlx-lm's own changes the
blocks' class for the whole process; this changes single blocks and is undone. And a block's dropout is the same in both
passes, without which the gradient would be that of another loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_personal.finetune.forward.dropout import RandomKeys
from mlx_personal.finetune.forward.patching import patched


@contextlib.contextmanager
def gradient_checkpointing(blocks: Sequence[nn.Module], keys: RandomKeys) -> Iterator[None]:
    """These blocks are checkpointed inside the `with`; their dropout must draw from `keys`."""
    # Some models use one block in several places.
    different = {id(block): block for block in blocks}
    with patched([(block, _checkpointing(block, keys)) for block in different.values()]):
        yield


def _checkpointing(block: nn.Module, keys: RandomKeys) -> Callable[..., Any]:
    def call(block_call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start = keys.next()

        def compute(parameters: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            block.update(parameters)
            going_on = keys.state
            keys.seed(*start)
            try:
                return block_call(*args, **kwargs)
            finally:
                keys.state = going_on

        return mx.checkpoint(compute)(block.trainable_parameters(), *args, **kwargs)

    return call
