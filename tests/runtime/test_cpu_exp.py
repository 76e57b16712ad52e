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
from mlx_personal.runtime import cpu_exp
from mlx_personal.runtime.cpu_exp import exp, fast_activations, softmax, swiglu
from mlx_personal.runtime.device import device_name


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


def softmax_of_float64(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = x.astype(np.float64)
    most = x.max(axis=-1, keepdims=True)
    sums = np.exp(x - most).sum(axis=-1, keepdims=True)
    return np.exp(x - most) / sums, (most + np.log(sums))[..., 0]


@pytest.mark.parametrize("size", [0.01, 1.0, 10.0])
def test_the_softmax_of_a_vocabulary_is_float64s(size: float) -> None:
    """Over 50,000 numbers MLX's own sums lose two digits."""
    x = (size * np.random.default_rng(0).normal(size=(12, 50_000))).astype(np.float32)
    shares, log_sum = (np.array(found, np.float64) for found in softmax(mx.array(x)))
    wanted, wanted_sum = softmax_of_float64(x)
    seen = wanted > 1e-30
    # A difference of two numbers is rounded, and exp makes that a relative error.
    rounding = 2.0**-24 * (x.max(axis=-1, keepdims=True) - x)
    assert (np.abs(shares[seen] / wanted[seen] - 1) < 1e-6 + rounding[seen]).all()
    assert shares[~seen].max(initial=0) < 2e-30
    assert np.abs(log_sum - wanted_sum).max() < 4e-7 * max(1.0, float(np.abs(wanted_sum).max()))
    assert np.abs(shares.sum(axis=-1) - 1).max() < 1e-6


@given(
    st.lists(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=5, max_size=5), min_size=1, max_size=4),
    st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_softmax_takes_numbers_of_any_size_and_what_is_left_out(rows: list[list[float]], left_out: bool) -> None:
    x = np.array(rows, np.float32)
    if left_out:
        x[:, 2] = -np.inf
    shares, log_sum = (np.array(found, np.float64) for found in softmax(mx.array(x)))
    wanted, wanted_sum = softmax_of_float64(x)
    np.testing.assert_allclose(shares, wanted, rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(log_sum, wanted_sum, rtol=2e-7, atol=1e-6)
    assert not left_out or (shares[:, 2] < 1e-37).all()


@pytest.mark.parametrize("shape", [(4,), (1,), (3, 1), (2, 3, 4), (0, 4)])
def test_softmax_is_over_the_last_axis(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    shares, log_sum = softmax(mx.array(x))
    assert (shares.shape, log_sum.shape) == (shape, shape[:-1])
    if x.size:
        wanted, wanted_sum = softmax_of_float64(x)
        np.testing.assert_allclose(np.array(shares), wanted, rtol=1e-6)
        np.testing.assert_allclose(np.array(log_sum), wanted_sum, rtol=1e-6, atol=1e-6)


def test_softmax_of_rows_in_another_order_in_memory_is_the_same() -> None:
    x = mx.random.normal((6, 5), key=mx.random.key(0))
    for found, wanted in zip(softmax(x.T), softmax(mx.contiguous(x.T)), strict=True):
        assert mx.array_equal(found, wanted)


def test_what_is_no_number_stays_none_in_its_row_alone() -> None:
    infinite = float("inf")
    x = mx.array([[0.0, 1.0], [float("nan"), 1.0], [-infinite, -infinite], [infinite, 1.0], [-infinite, 1.0]])
    shares, log_sum = softmax(x)
    assert np.isnan(np.array(shares)).all(axis=1).tolist() == [False, True, True, True, False]
    assert np.isnan(np.array(shares)).any(axis=1).tolist() == [False, True, True, True, False]
    assert np.isnan(np.array(log_sum)).tolist() == [False, True, True, True, False]


@pytest.mark.parametrize("device", ["cpu", "metal"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_on_a_gpu_and_of_other_numbers_softmax_is_mlxs(
    device: str, dtype: mx.Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_exp, "device_name", lambda: device)
    x = (9 * mx.random.normal((3, 1000), key=mx.random.key(0))).astype(dtype)
    shares, log_sum = softmax(x)
    wanted = mx.softmax(x, axis=-1), mx.logsumexp(x, axis=-1)
    assert shares.dtype == wanted[0].dtype == dtype and log_sum.dtype == wanted[1].dtype
    same = mx.array_equal(shares, wanted[0]) and mx.array_equal(log_sum, wanted[1])
    assert same == (device != "cpu" or dtype != mx.float32 or device_name() != "cpu")


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
    monkeypatch.setattr(cpu_exp, "device_name", lambda: "metal")
    with fast_activations(tiny_model.model):
        assert llama.swiglu is mlx_swiglu
