"""Compute LoRA layers in fewer operations than mlx-lm.

mlx-lm multiplies the adapter's output, which has the width of the layer's output, by the scale and then adds it. Here
the small matrix A is multiplied by the scale, and the addition is fused with the product with B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tuner.lora import LoRALinear

from mlx_personal.finetune.forward.patching import Patch


def lora_patches(layers: Sequence[nn.Module]) -> list[tuple[nn.Module, Patch]]:
    """Return the patches of all LoRA linear modules of layers, for `patching.patched`.

    Other kinds of adapter modules are not patched.

    Args:
        layers: Transformer layers of the model.

    References:
        [Hu22]
    """
    modules = {id(m): m for layer in layers for m in layer.modules() if type(m) is LoRALinear}
    return [(module, _lora_patch(module)) for module in modules.values()]


def _lora_patch(module: Any) -> Patch:
    def call(_: Callable[..., Any], x: mx.array) -> mx.array:
        base_output: mx.array = module.linear(x)
        low_rank = module.dropout(x) @ (module.scale * module.lora_a)
        return mx.addmm(base_output, low_rank.astype(base_output.dtype), module.lora_b.astype(base_output.dtype))

    return call
