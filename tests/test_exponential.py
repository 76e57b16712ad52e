"""The exponential of a CPU and the activation made with it, against float64 and against mlx-lm's own."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models import llama
from mlx_lm.models.activations import swiglu as mlx_swiglu

from mlx_personal import LanguageModel
from mlx_personal.backend import exponential
from mlx_personal.backend.exponential import exp, fast_activations, swiglu


def test_exp_is_right_to_the_last_bit_or_so_over_its_whole_range() -> None:
    x = np.linspace(-87, 88, 2_000_003, dtype=np.float32)
    found = np.array(exp(mx.array(x)), np.float64)
    assert np.abs(found / np.exp(x.astype(np.float64)) - 1).max() < 1.2e-7
    assert exp(mx.array([0.0])).item() == 1.0


def test_beyond_its_range_exp_is_that_of_the_ends() -> None:
    infinite = float("inf")
    found = np.array(exp(mx.array([-infinite, -1e30, -88.0, 89.0, 1e30, infinite, float("nan")])))
    np.testing.assert_allclose(found[:3], np.exp(-87.0), rtol=1e-6)
    np.testing.assert_allclose(found[3:6], np.exp(88.0), rtol=1e-6)
    assert np.isnan(found[6])


@given(st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=40), st.floats(-8, 8, width=32))
@settings(max_examples=50, deadline=None)
def test_exp_of_a_sum_is_the_product(values: list[float], shift: float) -> None:
    x = mx.array(values)
    np.testing.assert_allclose(np.array(exp(x + shift)), np.array(exp(x) * exp(mx.array(shift))), rtol=1e-5)


@pytest.mark.parametrize("shape", [(1,), (3, 7), (2, 5, 448)])
def test_the_activation_and_its_gradient_are_mlx_lms(shape: tuple[int, ...]) -> None:
    mx.random.seed(0)
    gate, x, slope = 6 * mx.random.normal(shape), mx.random.normal(shape), mx.random.normal(shape)
    for found, expected in zip(
        (*mx.vjp(swiglu, [gate, x], [slope])[0], *mx.vjp(swiglu, [gate, x], [slope])[1]),
        (*mx.vjp(mlx_swiglu, [gate, x], [slope])[0], *mx.vjp(mlx_swiglu, [gate, x], [slope])[1]),
        strict=True,
    ):
        np.testing.assert_allclose(np.array(found), np.array(expected), rtol=2e-6, atol=2e-6)


def test_far_from_zero_the_activation_is_the_product_or_nothing() -> None:
    gate, x = mx.array([-1e4, -200.0, 200.0, 1e4]), mx.array([2.0, 2.0, 2.0, 2.0])
    np.testing.assert_allclose(np.array(swiglu(gate, x)), [0, 0, 400, 2e4], atol=1e-30)
    slopes = mx.vjp(swiglu, [gate, x], [mx.ones(4)])[1]
    np.testing.assert_allclose(np.array(slopes[0]), [0, 0, 2, 2], atol=1e-30)


def test_other_kinds_of_numbers_stay_what_they_are() -> None:
    gate = x = mx.ones((2, 4), mx.bfloat16)
    assert swiglu(gate, x).dtype == mx.bfloat16
    assert mx.array_equal(swiglu(gate, x), mlx_swiglu(gate, x))


def test_a_model_uses_it_inside_the_block_alone_and_says_the_same(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = mx.array([tiny_model.text_tokens("How do I plant tomatoes?")])
    expected = tiny_model.model(tokens)
    with pytest.raises(KeyError), fast_activations(tiny_model.model):
        assert llama.swiglu is swiglu
        np.testing.assert_allclose(np.array(tiny_model.model(tokens)), np.array(expected), atol=1e-4)
        raise KeyError
    assert llama.swiglu is mlx_swiglu
    monkeypatch.setattr(exponential, "device_name", lambda: "metal")
    with fast_activations(tiny_model.model):
        assert llama.swiglu is mlx_swiglu
