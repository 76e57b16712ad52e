"""An adapter that is switched off: the model computes as its base, and after the block as before it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.afm7 import FusedLinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear
from mlx_lm.tuner.utils import linear_to_lora_layers

from mlx_personal import LanguageModel
from mlx_personal.models.adapter_switch import base_layer, disabled_adapter
from tests.support.random_models import bits, random_model, with_adapter

TOKENS = mx.array([[5, 9, 3, 77, 21, 14]])


def logits(lm: LanguageModel) -> np.ndarray:
    return np.array(lm.model(TOKENS).astype(mx.float32))


# Shared and expert layers, tied embeddings, and a quantized model.
@pytest.mark.parametrize(
    ("family", "dtype", "dora"),
    [
        ("llama", "float32", False),
        ("llama", "4-bit", False),
        ("llama", "float32", True),
        ("qwen3-moe", "float32", False),
        ("gpt2", "float32", False),
    ],
)
def test_inside_the_block_the_model_is_its_base_bit_for_bit(family: str, dtype: str, dora: bool) -> None:
    lm = random_model(family, dtype)
    base = logits(lm)
    with_adapter(lm, num_layers=-1, dora=dora)
    adapted, weights = logits(lm), bits(lm.model.parameters())
    assert np.abs(adapted - base).max() > 1e-4
    with lm.disable_adapter():
        np.testing.assert_array_equal(logits(lm), base)
        assert not [name for name, _ in tree_flatten(lm.model.parameters()) if "lora" in name]
    np.testing.assert_array_equal(logits(lm), adapted)
    assert bits(lm.model.parameters()) == weights


def test_weights_are_not_copied(tiny_model: LanguageModel) -> None:
    with_adapter(tiny_model)
    layer: Any = tiny_model.model.layers[-1].self_attn
    adapter_layer = layer.q_proj
    with tiny_model.disable_adapter():
        assert layer.q_proj is adapter_layer.linear
    assert layer.q_proj is adapter_layer
    tiny_model.detach_adapter()


def test_blocks_are_nested() -> None:
    lm = random_model("llama")
    base = logits(lm)
    with_adapter(lm)
    adapted = logits(lm)
    with lm.disable_adapter():
        with lm.disable_adapter():
            np.testing.assert_array_equal(logits(lm), base)
        np.testing.assert_array_equal(logits(lm), base)
    np.testing.assert_array_equal(logits(lm), adapted)


def test_the_adapter_is_on_again_after_an_error() -> None:
    lm = random_model("llama")
    with_adapter(lm)
    adapted = logits(lm)
    with pytest.raises(ZeroDivisionError), lm.disable_adapter():
        raise ZeroDivisionError
    np.testing.assert_array_equal(logits(lm), adapted)


def test_a_model_without_an_adapter_stays_as_it_is() -> None:
    lm = random_model("llama")
    base = logits(lm)
    with lm.disable_adapter():
        np.testing.assert_array_equal(logits(lm), base)
    np.testing.assert_array_equal(logits(lm), base)


def test_an_adapter_that_is_detached_in_the_block_stays_detached() -> None:
    lm = random_model("llama")
    base = logits(lm)
    with_adapter(lm)
    with lm.disable_adapter():
        lm.detach_adapter()
    np.testing.assert_array_equal(logits(lm), base)


def test_an_adapter_that_is_attached_in_the_block_stays_attached() -> None:
    lm = random_model("llama")
    with_adapter(lm, num_layers=1)
    with lm.disable_adapter():
        with_adapter(lm, num_layers=2)
        expected = logits(lm)
    np.testing.assert_array_equal(logits(lm), expected)


def test_training_goes_on_after_the_block() -> None:
    lm = random_model("llama")
    weights = with_adapter(lm)
    with lm.disable_adapter():
        assert not tree_flatten(lm.model.trainable_parameters())
    assert bits(lm.model.trainable_parameters()) == bits(weights)


def test_the_adapter_of_a_model_loaded_by_mlx_lm_is_switched_off_too() -> None:
    lm = random_model("llama")
    base = logits(lm)
    linear_to_lora_layers(lm.model, 2, {"rank": 2, "scale": 3.0, "dropout": 0.0})
    for module in lm.model.modules():
        if "lora_b" in module:
            module.lora_b = module.lora_b + 0.1
    adapted = logits(lm)
    assert np.abs(adapted - base).max() > 1e-4
    with lm.disable_adapter():
        np.testing.assert_array_equal(logits(lm), base)
    np.testing.assert_array_equal(logits(lm), adapted)


class _Fused(nn.Module):
    """A model of one fused projection, whose adapter layer holds lists of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.projection: Any = FusedLinear(8, [4, 6])
        self.embedding = nn.Embedding(10, 8)

    def __call__(self, tokens: mx.array) -> mx.array:
        return mx.concatenate(self.projection(self.embedding(tokens)), axis=-1)


def test_fused_projections_and_embeddings_are_switched_off() -> None:
    model = _Fused()
    base = np.array(model(TOKENS % 10))
    fused = model.projection.to_lora(r=2, scale=2.0)
    fused.lora_b = [b + 0.5 for b in fused.lora_b]
    embedding = LoRAEmbedding.from_base(model.embedding, r=2, scale=2.0)
    embedding.lora_b = embedding.lora_b + 0.5
    model.update_modules({"projection": fused, "embedding": embedding})
    adapted = np.array(model(TOKENS % 10))
    assert np.abs(adapted - base).max() > 1e-4
    with disabled_adapter(model):
        np.testing.assert_array_equal(np.array(model(TOKENS % 10)), base)
    np.testing.assert_array_equal(np.array(model(TOKENS % 10)), adapted)


def test_the_base_of_an_adapted_adapter_is_the_innermost_layer() -> None:
    linear = nn.Linear(4, 4)
    assert base_layer(LoRALinear.from_base(linear)) is linear
    outer = LoRALinear(4, 4)
    outer.linear = LoRALinear.from_base(linear)
    assert base_layer(outer) is linear
    assert base_layer(linear) is linear


def test_generation_is_that_of_the_base(tiny_model: LanguageModel) -> None:
    prompt = tiny_model.tokenize_prompt([{"role": "user", "content": "My cat does not eat."}])
    base = tiny_model.generate([prompt], max_tokens=8)
    with_adapter(tiny_model)
    for module in tiny_model.model.modules():
        if "lora_b" in module:
            module.lora_b = module.lora_b + 1.0
    adapted = tiny_model.generate([prompt], max_tokens=8)
    with tiny_model.disable_adapter():
        assert tiny_model.generate([prompt], max_tokens=8) == base
    assert tiny_model.generate([prompt], max_tokens=8) == adapted
    assert adapted != base
    tiny_model.detach_adapter()
