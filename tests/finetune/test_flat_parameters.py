"""Flattened adapter weights, and LoRA layers in fewer operations with the values and gradients of mlx-lm."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear

from mlx_personal.finetune.flat_parameters import FlatParameters
from mlx_personal.finetune.forward.dropout import RandomKeys, keyed_dropout
from mlx_personal.finetune.forward.lora_forward import lora_patches
from mlx_personal.finetune.forward.patching import patched
from tests.support import random_models

# Flattened weights


@pytest.mark.parametrize(("family", "dora"), [("llama", False), ("llama", True), ("mixtral", False)])
def test_unflatten_restores_weights_bit_for_bit(family: str, dora: bool) -> None:
    weights = random_models.with_adapter(random_models.random_model(family), num_layers=2, dora=dora)
    assert any(name.endswith(".m") for name, _ in tree_flatten(weights)) == dora
    layout = FlatParameters(weights)
    flat = layout.flatten(weights)
    assert flat.shape == (sum(weight.size for _, weight in tree_flatten(weights)),)
    assert random_models.bits(layout.unflatten(flat)) == random_models.bits(weights)


def test_a_model_accepts_unflattened_weights() -> None:
    """Layers without an adapter below the first one with an adapter are skipped."""
    lm = random_models.random_model("llama")
    layout = FlatParameters(random_models.with_adapter(lm, num_layers=1))
    own = lm.model.trainable_parameters()
    doubled = layout.unflatten(2 * layout.flatten(own))
    lm.model.update(doubled)
    assert random_models.bits(lm.model.trainable_parameters()) == random_models.bits(tree_map(lambda w: 2 * w, own))


def test_flatten_uses_the_order_of_the_layout() -> None:
    weights = {"b": mx.arange(6).reshape(2, 3), "a": [{"x": mx.array([7, 8])}, {}, {"x": mx.array(9)}]}
    layout = FlatParameters(weights)
    assert layout.flatten(weights).tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    # Other weights, such as a gradient, may be in another order.
    others = tree_unflatten([(name, -weight) for name, weight in reversed(tree_flatten(weights))])
    assert layout.flatten(others).tolist() == [0, -1, -2, -3, -4, -5, -7, -8, -9]
    assert random_models.bits(layout.unflatten(layout.flatten(others))) == random_models.bits(others)


def test_a_single_matrix_can_be_flattened() -> None:
    weights = {"a": mx.arange(6.0).reshape(2, 3)}
    layout = FlatParameters(weights)
    assert random_models.bits(layout.unflatten(layout.flatten(weights))) == random_models.bits(weights)


def test_missing_weights_are_rejected() -> None:
    with pytest.raises(KeyError, match="b"):
        FlatParameters({"a": mx.ones(2), "b": mx.ones(3)}).flatten({"a": mx.ones(2)})


def test_gradients_have_the_layout_of_the_weights() -> None:
    """The flattened gradient by the nested weights equals the gradient by the array."""
    rng = np.random.default_rng(0)
    weights = {
        "layers": [{}, {"a": mx.array(rng.normal(size=(3, 2))), "m": mx.array(rng.normal(size=4))}],
        "b": mx.array(rng.normal(size=(2, 5))),
    }
    gradients = tree_map(lambda w: mx.array(rng.normal(size=w.shape)), weights)
    layout = FlatParameters(weights)

    def loss(nested: Any) -> mx.array:
        pairs = zip(tree_flatten(nested), tree_flatten(gradients), strict=True)
        return sum(((w * w * s).sum() for (_, w), (_, s) in pairs), start=mx.array(0.0))

    by_nested = layout.flatten(mx.grad(loss)(weights))
    by_flat = mx.grad(lambda flat: loss(layout.unflatten(flat)))(layout.flatten(weights))
    expected = (
        2
        * random_models.flat({n: w for n, w in tree_flatten(weights)})
        * random_models.flat({n: s for n, s in tree_flatten(gradients)})
    )
    np.testing.assert_array_equal(np.array(by_nested), np.array(by_flat))
    np.testing.assert_allclose(np.sort(np.array(by_flat)), np.sort(expected), rtol=1e-5)


def test_a_step_on_the_array_is_a_step_on_each_matrix() -> None:
    weights = random_models.with_adapter(random_models.random_model("llama"))
    layout = FlatParameters(weights)
    stepped = layout.unflatten(layout.flatten(weights) - 0.1 * mx.sign(layout.flatten(weights)))
    assert random_models.bits(stepped) == random_models.bits(tree_map(lambda w: w - 0.1 * mx.sign(w), weights))


# LoRA layers


def layer(kind: str, dropout: float = 0.0, bias: bool = False) -> LoRALinear:
    """Return a LoRA layer from 64 to 48 that changes its output."""
    mx.random.seed(0)
    base: Any = nn.Linear(64, 48, bias=bias)
    made: Any = LoRALinear.from_base(base if kind != "4-bit" else nn.QuantizedLinear.from_linear(base), 4, dropout, 3.0)
    made.lora_b = 0.2 * mx.random.normal(made.lora_b.shape)
    if kind == "bfloat16":
        made.set_dtype(mx.bfloat16)
    made.linear.freeze()
    return made


def compute(module: Any, x: mx.array, own: bool, seed: int = 0) -> list[mx.array]:
    """Return the output and the gradients by x and the two matrices, for a fixed output gradient."""
    keys = RandomKeys(seed)
    output_gradient = mx.random.normal((*x.shape[:-1], 48), key=mx.random.key(5)).astype(x.dtype)
    names = ["lora_a", "lora_b"]

    def call(x: mx.array, *matrices: mx.array) -> mx.array:
        module.update(dict(zip(names, matrices, strict=True)))
        actual: mx.array = module(x)
        return actual

    matrices = [module[name] for name in names]
    with keyed_dropout([module], keys), patched(lora_patches([module]) if own else []):
        values, gradients = mx.vjp(call, [x, *matrices], [output_gradient])
        mx.eval(values, gradients)
    module.update(dict(zip(names, matrices, strict=True)))
    return [*values, *gradients]


@pytest.mark.parametrize("shape", [(64,), (7, 64), (2, 5, 64)])
@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 2e-6), ("4-bit", 2e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("bias", [False, True])
def test_a_lora_layer_matches_mlx_lm(
    shape: tuple[int, ...], kind: str, tolerance: float, dropout: float, bias: bool
) -> None:
    module = layer(kind, dropout, bias)
    x = mx.random.normal(shape, key=mx.random.key(1)).astype(mx.bfloat16 if kind == "bfloat16" else mx.float32)
    expected, actual = (compute(module, x, own) for own in (False, True))
    for name, a, b in zip(("value", "x", "a", "b"), actual, expected, strict=True):
        assert a.dtype == b.dtype, name
        assert random_models.distance(a, b) < tolerance, name
    if dropout:
        assert random_models.distance(compute(module, x, True, seed=1)[0], expected[0]) > 1e-2


def test_value_and_gradients_match_float64() -> None:
    module = layer("float32")
    x = mx.random.normal((7, 64), key=mx.random.key(1))
    actual = compute(module, x, True)
    output_gradient, inputs, a, b, weight = (
        np.array(m, np.float64)
        for m in (
            mx.random.normal((7, 48), key=mx.random.key(5)),
            x,
            module.lora_a,
            module.lora_b,
            module.linear.weight,
        )
    )
    expected = [
        inputs @ weight.T + 3 * inputs @ a @ b,
        output_gradient @ weight + 3 * output_gradient @ b.T @ a.T,
        3 * inputs.T @ output_gradient @ b.T,
        3 * a.T @ inputs.T @ output_gradient,
    ]
    for own, reference in zip(actual, expected, strict=True):
        assert np.linalg.norm(np.array(own, np.float64) - reference) < 1e-6 * np.linalg.norm(reference)


def test_no_dropout_in_evaluation() -> None:
    module = layer("float32", dropout=0.5)
    x = mx.random.normal((7, 64), key=mx.random.key(1))
    module.eval()
    expected = module(x)
    with keyed_dropout([module], RandomKeys(0)), patched(lora_patches([module])):
        np.testing.assert_allclose(np.array(module(x)), np.array(expected), rtol=1e-5, atol=1e-5)


def test_other_layers_and_adapters_are_unchanged() -> None:
    class Own(LoRALinear):
        """A subclass that may compute anything."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lora, self.dora, self.own = layer("float32"), DoRALinear(8, 8), Own(8, 8)
            self.plain, self.embedding = nn.Linear(8, 8), LoRAEmbedding(8, 8)

    block = Block()
    # The same layer twice, as in some models.
    changes = lora_patches([block, block])
    assert [module for module, _ in changes] == [block.lora]
    kinds = [type(module) for _, module in block.named_modules()]
    with patched(changes):
        assert type(block.lora) is not LoRALinear
        assert [type(m) for m in (block.dora, block.own, block.plain)] == [DoRALinear, Own, nn.Linear]
    assert [type(module) for _, module in block.named_modules()] == kinds
