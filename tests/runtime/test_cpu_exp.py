"""The exponential, softmax and SwiGLU of a CPU against float64 and against mlx-lm's functions."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models import llama
from mlx_lm.models.activations import swiglu as mlx_swiglu

from mlx_personal import LanguageModel
from mlx_personal.runtime import cpu_exp
from mlx_personal.runtime.cpu_exp import exp, fast_activations, softmax, swiglu
from mlx_personal.runtime.device import device_name


def test_exp_is_accurate_to_about_the_last_bit_over_its_range() -> None:
    x = np.linspace(-87, 88, 2_000_003, dtype=np.float32)
    result = np.array(exp(mx.array(x)), np.float64)
    assert np.abs(result / np.exp(x.astype(np.float64)) - 1).max() < 1.2e-7
    assert exp(mx.array([0.0])).item() == 1.0


def test_exp_is_clamped_beyond_its_range() -> None:
    infinite = float("inf")
    result = np.array(exp(mx.array([-infinite, -1e30, -88.0, 89.0, 1e30, infinite, float("nan")])))
    np.testing.assert_allclose(result[:3], np.exp(-87.0), rtol=1e-6)
    np.testing.assert_allclose(result[3:6], np.exp(88.0), rtol=1e-6)
    assert np.isnan(result[6])


@given(st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=40), st.floats(-8, 8, width=32))
@settings(max_examples=50, deadline=None)
def test_exp_of_a_sum_is_the_product(values: list[float], shift: float) -> None:
    x = mx.array(values)
    np.testing.assert_allclose(np.array(exp(x + shift)), np.array(exp(x) * exp(mx.array(shift))), rtol=1e-5)


def softmax_float64(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = x.astype(np.float64)
    largest = x.max(axis=-1, keepdims=True)
    sums = np.exp(x - largest).sum(axis=-1, keepdims=True)
    return np.exp(x - largest) / sums, (largest + np.log(sums))[..., 0]


@pytest.mark.parametrize("size", [0.01, 1.0, 10.0])
def test_softmax_over_a_vocabulary_equals_float64(size: float) -> None:
    """Over 50,000 numbers MLX's own sums lose two digits."""
    x = (size * np.random.default_rng(0).normal(size=(12, 50_000))).astype(np.float32)
    probabilities, log_sum = (np.array(result, np.float64) for result in softmax(mx.array(x)))
    expected, expected_sum = softmax_float64(x)
    visible = expected > 1e-30
    # A difference of two numbers is rounded, and exp makes that a relative error.
    rounding = 2.0**-24 * (x.max(axis=-1, keepdims=True) - x)
    assert (np.abs(probabilities[visible] / expected[visible] - 1) < 1e-6 + rounding[visible]).all()
    assert probabilities[~visible].max(initial=0) < 2e-30
    assert np.abs(log_sum - expected_sum).max() < 4e-7 * max(1.0, float(np.abs(expected_sum).max()))
    assert np.abs(probabilities.sum(axis=-1) - 1).max() < 1e-6


@pytest.mark.parametrize("vocabulary", [4097, 49_152, 50_257])
def test_a_sure_prediction_does_not_swallow_the_other_probabilities(vocabulary: int) -> None:
    """One probability near 1 and thousands of tiny ones, as at most tokens of a trained model."""
    x = np.random.default_rng(0).normal(-16, 1.5, size=(11, vocabulary)).astype(np.float32)
    x[np.arange(11), np.arange(11) * 370] = 0.0
    probabilities, log_sum = (np.array(result, np.float64) for result in softmax(mx.array(x)))
    expected, expected_sum = softmax_float64(x)
    np.testing.assert_allclose(log_sum, expected_sum, rtol=0, atol=1e-6)
    np.testing.assert_allclose(probabilities.max(axis=-1), expected.max(axis=-1), rtol=1e-6)


@given(
    st.lists(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=5, max_size=5), min_size=1, max_size=4),
    st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_softmax_accepts_numbers_of_any_size_and_masked_ones(rows: list[list[float]], masked: bool) -> None:
    x = np.array(rows, np.float32)
    if masked:
        x[:, 2] = -np.inf
    probabilities, log_sum = (np.array(result, np.float64) for result in softmax(mx.array(x)))
    expected, expected_sum = softmax_float64(x)
    # Half a unit in the last place of the difference of two logits, at most 80, is a relative error of 4e-6.
    np.testing.assert_allclose(probabilities, expected, rtol=5e-6, atol=1e-37)
    np.testing.assert_allclose(log_sum, expected_sum, rtol=2e-7, atol=1e-6)
    assert not masked or (probabilities[:, 2] < 1e-37).all()


@pytest.mark.parametrize("shape", [(4,), (1,), (3, 1), (2, 3, 4), (0, 4)])
def test_softmax_is_over_the_last_axis(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    probabilities, log_sum = softmax(mx.array(x))
    assert (probabilities.shape, log_sum.shape) == (shape, shape[:-1])
    if x.size:
        expected, expected_sum = softmax_float64(x)
        np.testing.assert_allclose(np.array(probabilities), expected, rtol=1e-6)
        np.testing.assert_allclose(np.array(log_sum), expected_sum, rtol=1e-6, atol=1e-6)


def test_softmax_does_not_depend_on_the_memory_layout() -> None:
    x = mx.random.normal((6, 5), key=mx.random.key(0))
    for result, expected in zip(softmax(x.T), softmax(mx.contiguous(x.T)), strict=True):
        assert mx.array_equal(result, expected)


def test_nan_stays_in_its_row() -> None:
    infinite = float("inf")
    x = mx.array([[0.0, 1.0], [float("nan"), 1.0], [-infinite, -infinite], [infinite, 1.0], [-infinite, 1.0]])
    probabilities, log_sum = softmax(x)
    assert np.isnan(np.array(probabilities)).all(axis=1).tolist() == [False, True, True, True, False]
    assert np.isnan(np.array(probabilities)).any(axis=1).tolist() == [False, True, True, True, False]
    assert np.isnan(np.array(log_sum)).tolist() == [False, True, True, True, False]


@pytest.mark.parametrize("device", ["cpu", "metal"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_softmax_on_a_gpu_and_of_other_dtypes_is_mlxs(
    device: str, dtype: mx.Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_exp, "device_name", lambda: device)
    x = (9 * mx.random.normal((3, 1000), key=mx.random.key(0))).astype(dtype)
    probabilities, log_sum = softmax(x)
    expected = mx.softmax(x, axis=-1), mx.logsumexp(x, axis=-1)
    assert probabilities.dtype == expected[0].dtype == dtype and log_sum.dtype == expected[1].dtype
    same = mx.array_equal(probabilities, expected[0]) and mx.array_equal(log_sum, expected[1])
    assert same == (device != "cpu" or dtype != mx.float32 or device_name() != "cpu")


@pytest.mark.parametrize("shape", [(1,), (3, 7), (2, 5, 448)])
def test_swiglu_and_its_gradient_equal_mlx_lms(shape: tuple[int, ...]) -> None:
    mx.random.seed(0)
    gate, x, cotangent = 6 * mx.random.normal(shape), mx.random.normal(shape), mx.random.normal(shape)
    for result, expected in zip(
        (*mx.vjp(swiglu, [gate, x], [cotangent])[0], *mx.vjp(swiglu, [gate, x], [cotangent])[1]),
        (*mx.vjp(mlx_swiglu, [gate, x], [cotangent])[0], *mx.vjp(mlx_swiglu, [gate, x], [cotangent])[1]),
        strict=True,
    ):
        np.testing.assert_allclose(np.array(result), np.array(expected), rtol=2e-6, atol=2e-6)


def test_swiglu_of_large_gates_is_the_product_or_zero() -> None:
    gate, x = mx.array([-1e4, -200.0, 200.0, 1e4]), mx.array([2.0, 2.0, 2.0, 2.0])
    np.testing.assert_allclose(np.array(swiglu(gate, x)), [0, 0, 400, 2e4], atol=1e-30)
    gradients = mx.vjp(swiglu, [gate, x], [mx.ones(4)])[1]
    np.testing.assert_allclose(np.array(gradients[0]), [0, 0, 2, 2], atol=1e-30)


def test_other_dtypes_are_unchanged() -> None:
    gate = x = mx.ones((2, 4), mx.bfloat16)
    assert swiglu(gate, x).dtype == mx.bfloat16
    assert mx.array_equal(swiglu(gate, x), mlx_swiglu(gate, x))


def test_a_model_uses_it_inside_the_with_block_only(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = mx.array([tiny_model.tokenize("How do I plant tomatoes?")])
    expected = tiny_model.model(tokens)
    with pytest.raises(KeyError), fast_activations(tiny_model.model):
        assert llama.swiglu is swiglu
        np.testing.assert_allclose(np.array(tiny_model.model(tokens)), np.array(expected), atol=1e-4)
        raise KeyError
    assert llama.swiglu is mlx_swiglu
    monkeypatch.setattr(cpu_exp, "device_name", lambda: "metal")
    with fast_activations(tiny_model.model):
        assert llama.swiglu is mlx_swiglu
