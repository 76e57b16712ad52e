"""What an adapted layer computes, in fewer operations than mlx-lm's own takes.

mlx-lm multiplies the adapter's output, as wide as the layer's, by its scale and then adds it. Here the scale goes to
the narrow matrix, and adding is a part of the product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tuner.lora import LoRALinear


def lora_patches(blocks: Sequence[nn.Module]) -> list[tuple[nn.Module, Callable[..., Any]]]:
    """The changes, for `calling`; other kinds of adapters stay as they are."""
    modules = {id(m): m for block in blocks for m in block.modules() if type(m) is LoRALinear}
    return [(module, _call(module)) for module in modules.values()]


def _call(module: Any) -> Callable[..., Any]:
    def call(_: Callable[..., Any], x: mx.array) -> mx.array:
        adapted: mx.array = module.linear(x)
        narrow = module.dropout(x) @ (module.scale * module.lora_a)
        return mx.addmm(adapted, narrow.astype(adapted.dtype), module.lora_b.astype(adapted.dtype))

    return call
