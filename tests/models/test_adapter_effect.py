"""Adapters that change nothing: zero matrices, updates below the rounding, and DoRA magnitudes as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlx_personal import LanguageModel
from mlx_personal.models.adapter_effect import AdapterProbe

TOKENS = list(range(10, 60))


def has_effect(lm: LanguageModel, change: Callable[[str, Any], Any], use_dora: bool = False) -> bool:
    """Attach a new adapter whose weights are changed by their names, and probe it."""
    lm.attach_new_adapter(-1, {"rank": 2, "scale": 2.0, "dropout": 0.0}, 0, use_dora)
    weights = tree_flatten(lm.model.trainable_parameters())
    lm.model.update(tree_unflatten([(name, change(name.rpartition(".")[2], weight)) for name, weight in weights]))
    probe = AdapterProbe(lm, TOKENS)
    lm.detach_adapter()
    return probe.has_effect(lm)


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_new_adapter_has_no_effect(tiny_model: LanguageModel, use_dora: bool) -> None:
    assert not has_effect(tiny_model, lambda name, weight: weight, use_dora)


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-12])
def test_weights_below_the_rounding_have_no_effect(tiny_model: LanguageModel, size: float) -> None:
    assert not has_effect(tiny_model, lambda name, weight: mx.full(weight.shape, size) if name == "lora_b" else weight)


@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_a_trained_adapter_has_an_effect(tiny_model: LanguageModel, size: float) -> None:
    assert has_effect(tiny_model, lambda name, weight: mx.full(weight.shape, size) if name == "lora_b" else weight)


def test_one_layer_is_enough(tiny_model: LanguageModel) -> None:
    changed: list[str] = []

    def change_first(name: str, weight: Any) -> Any:
        if name == "lora_b" and not changed:
            changed.append(name)
            return weight + 0.1
        return weight

    assert has_effect(tiny_model, change_first)


def test_other_magnitudes_of_dora_have_an_effect(tiny_model: LanguageModel) -> None:
    assert has_effect(tiny_model, lambda name, weight: weight * 1.1 if name == "m" else weight, use_dora=True)
