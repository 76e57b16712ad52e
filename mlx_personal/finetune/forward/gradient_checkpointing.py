"""Gradient checkpointing: layers save only their inputs and are recomputed in the backward pass.

The saved activations of a layer shrink from dozens of arrays to one, for about a third more time. mlx-lm's own function
changes the layers' class for the whole process; this one patches individual layers temporarily. It also uses the same
dropout mask in both passes; otherwise the gradient would belong to another loss.

References:
    [Chen16]
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_personal.finetune.forward.dropout import RandomKeys
from mlx_personal.finetune.forward.patching import Patch, patched


@contextlib.contextmanager
def gradient_checkpointing(layers: Sequence[nn.Module], keys: RandomKeys) -> Iterator[None]:
    """Checkpoint layers inside the `with` block.

    Args:
        layers: Transformer layers of the model.
        keys: Source of the random numbers of their dropout.
    """
    # Some models use the same layer at several depths.
    distinct = {id(layer): layer for layer in layers}
    with patched([(layer, _checkpoint_patch(layer, keys)) for layer in distinct.values()]):
        yield


def _checkpoint_patch(layer: nn.Module, keys: RandomKeys) -> Patch:
    def call(layer_call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start_key = keys.next()

        def compute(parameters: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            layer.update(parameters)
            later_state = keys.state
            keys.reseed(*start_key)
            try:
                return layer_call(*args, **kwargs)
            finally:
                keys.state = later_state

        return mx.checkpoint(compute)(layer.trainable_parameters(), *args, **kwargs)

    return call
