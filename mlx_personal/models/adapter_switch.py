"""Switch the adapter of a model off for a while: the layers that it adapts take the places of its own.

No weights are copied or computed. This works for all adapter layers of mlx-lm (LoRA, DoRA, those of experts, embeddings
and fused projections), because each of them holds the layer that it adapts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import mlx.nn as nn
from mlx.utils import tree_unflatten


@contextlib.contextmanager
def disabled_adapter(model: nn.Module, is_still_attached: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Compute as the base model inside the `with` block.

    Args:
        model: A model of mlx-lm, with or without an adapter.
        is_still_attached: Whether the adapter is to be switched on again at the end of the block.
    """
    adapter_layers = list(_outermost_adapter_layers(model))
    base_layers = [(name, base_layer(module)) for name, module in adapter_layers]
    if base_layers:
        model.update_modules(tree_unflatten(base_layers))
    try:
        yield
    finally:
        if adapter_layers and is_still_attached():
            model.update_modules(tree_unflatten(adapter_layers))


def base_layer(module: nn.Module) -> nn.Module:
    """Return the layer of the base model that an adapter layer adapts.

    Args:
        module: A LoRA or DoRA layer of mlx-lm; any other module is returned itself.
    """
    while _is_adapter_layer(module):
        module = module["linear"] if "linear" in module else module["embedding"]
    return module


def _is_adapter_layer(module: nn.Module) -> bool:
    return "lora_a" in module


def _outermost_adapter_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the adapter layers of a model with their names, except those inside of other adapter layers."""
    found: dict[str, nn.Module] = {name: module for name, module in model.named_modules() if _is_adapter_layer(module)}
    for name, module in found.items():
        parents = name.split(".")
        if not any(".".join(parents[:depth]) in found for depth in range(1, len(parents))):
            yield name, module
