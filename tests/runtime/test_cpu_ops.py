"""Attention, RMSNorm and rotary embedding for CPUs and their gradients against float64, and what MLX computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models import llama

from mlx_personal import LanguageModel
from mlx_personal.runtime import cpu_exp, cpu_ops
from mlx_personal.runtime.cpu_ops import fast_ops
from mlx_personal.runtime.device import device_name
from tests.support import float64

pytestmark = pytest.mark.skipif(device_name() != "cpu", reason="a GPU uses MLX's own")

NAMES = ("scaled_dot_product_attention", "rms_norm", "rope")
ORIGINALS = {name: getattr(mx.fast, name) for name in NAMES}
ROPE: dict[str, Any] = {"traditional": False, "base": 1e4, "scale": 1.0, "offset": 0}


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def fast_call(name: str, *args: Any, **kwargs: Any) -> mx.array:
    """Call the function of `mlx.core.fast` inside `fast_ops`."""
    with fast_ops(nn.Module()):
        result: mx.array = getattr(mx.fast, name)(*args, **kwargs)
        return result


def value_and_gradients(
    name: str, arrays: list[mx.array], cotangent: mx.array, *args: Any, **kwargs: Any
) -> list[mx.array]:
    """Return the output and the gradients of its product with `cotangent` with respect to the arrays."""
    values, gradients = mx.vjp(lambda *arrays: fast_call(name, *arrays, *args, **kwargs), arrays, [cotangent])
    return [*values, *gradients]


@pytest.fixture
def mlx_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of MLX's own functions that have been called."""
    called: list[str] = []

    def recording(name: str) -> Callable[..., mx.array]:
        def call(*args: Any, **kwargs: Any) -> mx.array:
            called.append(name)
            result: mx.array = ORIGINALS[name](*args, **kwargs)
            return result

        return call

    for name in NAMES:
        monkeypatch.setattr(mx.fast, name, recording(name))
    return called


# Attention


def test_the_gradient_of_the_attention_reference_is_its_numerical_gradient() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) for shape in ((1, 2, 3, 4), (1, 1, 5, 4), (1, 1, 5, 3))]

    def attend(arrays: list[np.ndarray]) -> float64.AttentionResult:
        q, k, v = arrays
        return float64.attention(q, k, v, 0.7, bias, cotangent)

    bias = rng.normal(size=(1, 2, 3, 5)) + float64.causal_bias(3, 5)
    cotangent = rng.normal(size=(1, 2, 3, 3))
    result = attend(arrays)
    for i, gradient in enumerate((result.d_q, result.d_k, result.d_v)):
        at = tuple(rng.integers(0, size) for size in arrays[i].shape)
        products = []
        for step in (1e-5, -1e-5):
            changed = [array.copy() for array in arrays]
            changed[i][at] += step
            products.append((attend(changed).output * cotangent).sum())
        assert gradient[at] == pytest.approx((products[0] - products[1]) / 2e-5, rel=1e-6)


def check_attention(arrays: list[np.ndarray], mask: Any, bias: np.ndarray, scale: float) -> None:
    """Compare output and gradients with `mask` to the reference with the equivalent `bias` [B, H, n, m]."""
    q, _, v = arrays
    cotangent = normal(np.random.default_rng(1), *q.shape[:3], v.shape[3])
    expected = float64.attention(arrays[0], arrays[1], arrays[2], scale, bias, cotangent)
    result = value_and_gradients(NAMES[0], [mx.array(a) for a in arrays], mx.array(cotangent), scale=scale, mask=mask)
    for name, actual, reference in zip(("output", "q", "k", "v"), result, expected, strict=False):
        assert float64.relative_error(actual, reference) < 2e-6, name


sizes = st.integers(1, 3)


@given(
    st.tuples(sizes, sizes, sizes, st.integers(1, 7), st.integers(0, 6), st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from(["none", "causal", "bool", "additive"]),
    st.integers(0, 15),
    st.integers(2, 4),
    st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_attention_and_its_gradients_equal_float64(
    shape: tuple[int, ...], kind: str, single: int, dims: int, seed: int
) -> None:
    """With query heads that share keys, more keys than queries, values of another width, and broadcast masks."""
    rng = np.random.default_rng(seed)
    batch, kv_heads, group_size, queries, extra_keys, width, value_width = shape
    heads, keys = kv_heads * group_size, queries + extra_keys
    arrays = [
        normal(rng, batch, heads, queries, width),
        normal(rng, batch, kv_heads, keys, width),
        normal(rng, batch, kv_heads, keys, value_width),
    ]
    full = (batch, heads, queries, keys)
    mask: Any = None
    bias = np.zeros(full)
    if kind == "causal":
        mask, bias = "causal", bias + float64.causal_bias(queries, keys)
    elif kind != "none":
        # With fewer dimensions, some of which have size 1.
        mask_shape = [1 if single >> i & 1 else size for i, size in enumerate(full)][4 - dims :]
        visible = rng.random(mask_shape) < 0.5
        visible[..., rng.integers(mask_shape[-1])] = True  # each query sees a key
        numbers = normal(rng, *mask_shape)
        mask = mx.array(visible if kind == "bool" else np.where(visible, numbers, -np.inf).astype(np.float32))
        bias = bias + np.where(visible, 0 if kind == "bool" else numbers, -np.inf)
    check_attention(arrays, mask, bias, scale=0.5)


@pytest.mark.parametrize("shape", [(4, 3, 5), (1, 3, 5), (4, 1, 5)])
def test_a_mask_of_three_dimensions_is_for_heads(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    arrays = [normal(rng, 2, 4, 3, 8), normal(rng, 2, 2, 5, 8), normal(rng, 2, 2, 5, 8)]
    visible = rng.random(shape) < 0.6
    visible[..., 2] = True
    check_attention(arrays, mx.array(visible), np.broadcast_to(np.where(visible, 0, -np.inf), (2, 4, 3, 5)), 0.4)


def test_an_additive_mask_has_a_gradient() -> None:
    """DeepSeek's families pass the rotary part of their scores as an additive mask."""
    rng = np.random.default_rng(0)
    arrays = [normal(rng, 1, 4, 3, 8), normal(rng, 1, 2, 5, 8), normal(rng, 1, 2, 5, 8)]
    bias, cotangent = normal(rng, 1, 4, 3, 5), normal(rng, 1, 4, 3, 8)
    expected = float64.attention(arrays[0], arrays[1], arrays[2], 0.4, bias, cotangent)
    q, k, v = (mx.array(a) for a in arrays)

    def product(bias: mx.array) -> mx.array:
        return (fast_call(NAMES[0], q, k, v, scale=0.4, mask=bias) * mx.array(cotangent)).sum()

    assert float64.relative_error(mx.grad(product)(mx.array(bias)), expected.d_bias) < 2e-6


def test_a_key_with_a_much_larger_score_gets_all_attention() -> None:
    rng = np.random.default_rng(0)
    q, k, v, cotangent = 1e4 * normal(rng, 1, 2, 6, 8), *(normal(rng, 1, heads, 6, 8) for heads in (1, 1, 2))
    expected = float64.attention(q, k, v, 1.0, np.broadcast_to(float64.causal_bias(6, 6), (1, 2, 6, 6)), cotangent)
    result = value_and_gradients(
        NAMES[0], [mx.array(a) for a in (q, k, v)], mx.array(cotangent), scale=1.0, mask="causal"
    )
    # The gradient with respect to k is a difference of numbers of q's size.
    for actual, gradient, size in zip(result, expected, (1, 1, 1e4, 1), strict=False):
        assert float64.relative_error(np.array(actual) / size, gradient / size) < 2e-6


def test_masked_keys_may_be_huge_or_nan() -> None:
    """Scores of 1e30 or NaN at a masked key change no bit of the result."""
    rng = np.random.default_rng(0)
    q, k, v = (mx.array(normal(rng, 1, 2, 5, 8)) for _ in range(3))
    cotangent = mx.array(normal(rng, 1, 2, 5, 8))
    cotangent[:, :, 4] = 0
    visible = mx.array(np.where(np.arange(5) < 4, True, False)[None])
    result = []
    for last in (0.0, 1e30, -1e30, float("nan")):
        keys = mx.array(k)
        keys[:, :, 4] = last
        value, _, _, d_v = value_and_gradients(NAMES[0], [q, keys, v], cotangent, scale=1.0, mask=visible)
        result.append((np.array(value), np.array(d_v)))
    for others in result[1:]:
        for a, b in zip(others, result[0], strict=True):
            np.testing.assert_array_equal(a, b)
    assert np.isfinite(result[0][0]).all()


def test_later_tokens_change_no_bit_of_earlier_ones() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (normal(rng, 1, 3, 9, 8) for _ in range(3))
    before = np.array(fast_call(NAMES[0], *map(mx.array, (q, k, v)), scale=0.3, mask="causal"))
    for array in (q, k, v):
        array[:, :, 6:] = 100 * normal(rng, 1, 3, 3, 8)
    after = np.array(fast_call(NAMES[0], *map(mx.array, (q, k, v)), scale=0.3, mask="causal"))
    np.testing.assert_array_equal(after[:, :, :6], before[:, :, :6])
    assert (after[:, :, 6:] != before[:, :, 6:]).any()


def test_nan_stays_in_its_query() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (mx.array(normal(rng, 1, 1, 4, 8)) for _ in range(3))
    q[:, :, 1] = mx.nan
    result = np.isnan(np.array(fast_call(NAMES[0], q, k, v, scale=1.0, mask="causal")))[0, 0]
    assert result.all(axis=1).tolist() == [False, True, False, False]
    assert result.any(axis=1).tolist() == [False, True, False, False]


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_attention_of_other_dtypes_is_mlxs(dtype: mx.Dtype, mlx_calls: list[str]) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (mx.array(normal(rng, 1, heads, 4, 8)).astype(dtype) for heads in (4, 2, 2))
    result = fast_call(NAMES[0], q, k, v, scale=0.3, mask="causal")
    assert result.dtype == dtype
    assert mx.array_equal(result, ORIGINALS[NAMES[0]](q, k, v, scale=0.3, mask="causal"))
    assert mlx_calls == [NAMES[0]]


def test_attention_with_sinks_is_mlxs(mlx_calls: list[str]) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (mx.array(normal(rng, 1, heads, 4, 8)) for heads in (4, 2, 2))
    sinks = mx.array(normal(rng, 4))
    result = fast_call(NAMES[0], q, k, v, scale=0.3, mask="causal", sinks=sinks)
    assert mx.array_equal(result, ORIGINALS[NAMES[0]](q, k, v, scale=0.3, mask="causal", sinks=sinks))
    assert not mx.array_equal(result, fast_call(NAMES[0], q, k, v, scale=0.3, mask="causal"))
    assert mlx_calls == [NAMES[0]]


def test_common_calls_do_not_reach_mlx(mlx_calls: list[str]) -> None:
    x, visible = mx.ones((1, 2, 3, 4)), mx.ones((3, 3), mx.bool_)
    for mask in (None, "causal", visible, visible[None, None]):
        fast_call(NAMES[0], x, x, x, scale=1.0, mask=mask)
    fast_call(NAMES[1], x, mx.ones(4), 1e-5)
    fast_call(NAMES[2], x, 4, **ROPE)
    assert mlx_calls == []


# RMSNorm


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float, cotangent: np.ndarray) -> list[np.ndarray]:
    """Return the output and the gradients with respect to x and weight, in float64."""
    x, weight, cotangent = (a.astype(np.float64) for a in (x, weight, cotangent))
    size = np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    radial = (cotangent * weight * x).mean(axis=-1, keepdims=True)
    d_weight = (cotangent * x / size).reshape(-1, x.shape[-1]).sum(axis=0)
    return [x / size * weight, cotangent * weight / size - x * radial / size**3, d_weight]


def test_the_gradient_of_the_rms_norm_reference_is_its_numerical_gradient() -> None:
    rng = np.random.default_rng(0)
    x, weight, cotangent = rng.normal(size=(2, 5)), rng.normal(size=5), rng.normal(size=(2, 5))
    _, d_x, d_weight = rms_norm(x, weight, 0.1, cotangent)
    step = 1e-5 * np.eye(5)[2]
    by_x = [(rms_norm(x + s * step, weight, 0.1, cotangent)[0] * cotangent).sum() for s in (1, -1)]
    by_weight = [(rms_norm(x, weight + s * step, 0.1, cotangent)[0] * cotangent).sum() for s in (1, -1)]
    assert d_x[:, 2].sum() == pytest.approx((by_x[0] - by_x[1]) / 2e-5, rel=1e-6)
    assert d_weight[2] == pytest.approx((by_weight[0] - by_weight[1]) / 2e-5, rel=1e-6)


@given(
    st.lists(st.integers(1, 5), max_size=3),
    st.integers(1, 40),
    st.sampled_from([1e-6, 1e-5, 1.0]),
    st.sampled_from([1e-6, 1e-2, 1.0, 1e4]),
    st.integers(0, 999),
)
@settings(max_examples=50, deadline=None)
def test_rms_norm_and_its_gradients_equal_float64(
    shape: list[int], width: int, eps: float, size: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, weight, cotangent = size * normal(rng, *shape, width), normal(rng, width), normal(rng, *shape, width)
    expected = rms_norm(x, weight, eps, cotangent)
    result = value_and_gradients(NAMES[1], [mx.array(x), mx.array(weight)], mx.array(cotangent), eps)
    # The gradient with respect to x is a difference of two numbers of this size.
    d_x_size = max(1.0, float(np.abs(cotangent * weight).max()) / np.sqrt(np.square(x, dtype=np.float64).mean() + eps))
    for actual, reference, scale in zip(result, expected, (1.0, d_x_size, 1.0), strict=True):
        assert float64.relative_error(np.array(actual, np.float64) / scale, reference / scale) < 3e-6


def test_a_token_of_zeros_stays_zero_and_has_a_gradient() -> None:
    result = value_and_gradients(NAMES[1], [mx.zeros((1, 4)), mx.full((4,), 3.0)], mx.ones((1, 4)), 1e-4)
    np.testing.assert_array_equal(np.array(result[0]), 0)
    np.testing.assert_allclose(np.array(result[1]), 300, rtol=1e-5)
    np.testing.assert_array_equal(np.array(result[2]), 0)


def test_a_nan_token_does_not_affect_others() -> None:
    x = mx.ones((3, 4))
    x[1, 2] = mx.nan
    result = np.isnan(np.array(fast_call(NAMES[1], x, mx.ones(4), 1e-5)))
    assert result.all(axis=1).tolist() == result.any(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("dtype", "weight_dtype"), [(mx.float32, None), (mx.bfloat16, mx.bfloat16), (mx.bfloat16, mx.float32)]
)
def test_other_norms_are_mlxs(dtype: mx.Dtype, weight_dtype: mx.Dtype | None, mlx_calls: list[str]) -> None:
    rng = np.random.default_rng(0)
    x, weight = mx.array(normal(rng, 3, 8)).astype(dtype), None
    if weight_dtype is not None:
        weight = mx.array(normal(rng, 8)).astype(weight_dtype)
    result = fast_call(NAMES[1], x, weight=weight, eps=1e-5)
    expected = ORIGINALS[NAMES[1]](x, weight, 1e-5)
    assert result.dtype == expected.dtype and mx.array_equal(result, expected)
    assert mlx_calls == [NAMES[1]]


# Rotary embedding


def rope(x: np.ndarray, base: float, scale: float, offset: int) -> np.ndarray:
    """Rotate heads in float64, with their halves as the parts of complex numbers."""
    half = x.shape[-1] // 2
    angles = scale * (offset + np.arange(x.shape[-2]))[:, None] * base ** (-np.arange(half) / half)
    rotated = (x[..., :half].astype(np.float64) + 1j * x[..., half:]) * np.exp(1j * angles)
    return np.concatenate([rotated.real, rotated.imag], axis=-1)


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(1, 9),
    st.integers(1, 8),
    st.sampled_from([1e2, 1e4, 1e6]),
    st.sampled_from([0.25, 1.0, 2.0]),
    st.sampled_from([0, 1, 37, 100_000]),
)
@settings(max_examples=50, deadline=None)
def test_rotary_embedding_and_its_gradient_equal_float64(
    shape: list[int], tokens: int, half: int, base: float, scale: float, offset: int
) -> None:
    """Also at large positions, where MLX's own angles are off by a thousandth."""
    rng = np.random.default_rng(0)
    x, cotangent = normal(rng, *shape, tokens, 2 * half), normal(rng, *shape, tokens, 2 * half)
    result = value_and_gradients(
        NAMES[2], [mx.array(x)], mx.array(cotangent), 2 * half, traditional=False, base=base, scale=scale, offset=offset
    )
    assert float64.relative_error(result[0], rope(x, base, scale, offset)) < 1e-6
    # The gradient of a rotation is the inverse rotation.
    assert float64.relative_error(rope(np.array(result[1]), base, scale, offset), cotangent.astype(np.float64)) < 1e-6


@pytest.mark.parametrize(
    ("dims", "changes"),
    [
        (8, {"traditional": True}),
        (4, {}),
        (8, {"base": None, "freqs": mx.array([1.0, 3.0, 10.0, 70.0])}),
        (8, {"offset": mx.array([3, 11])}),
    ],
)
def test_other_rotary_embeddings_are_mlxs(dims: int, changes: dict[str, Any], mlx_calls: list[str]) -> None:
    x = mx.array(normal(np.random.default_rng(0), 2, 3, 5, 8))
    kwargs = {**ROPE, **changes}
    assert mx.array_equal(fast_call(NAMES[2], x, dims, **kwargs), ORIGINALS[NAMES[2]](x, dims, **kwargs))
    assert mlx_calls == [NAMES[2]]


def test_rotary_embeddings_of_other_dtypes_are_mlxs(mlx_calls: list[str]) -> None:
    x = mx.array(normal(np.random.default_rng(0), 2, 3, 5, 8)).astype(mx.bfloat16)
    result = fast_call(NAMES[2], x, 8, **ROPE)
    assert result.dtype == mx.bfloat16 and mx.array_equal(result, ORIGINALS[NAMES[2]](x, 8, **ROPE))
    assert mlx_calls == [NAMES[2]]


def test_an_odd_head_size_is_refused() -> None:
    for function in (ORIGINALS[NAMES[2]], lambda *args, **kwargs: fast_call(NAMES[2], *args, **kwargs)):
        with pytest.raises(ValueError):
            function(mx.ones((1, 2, 3, 7)), 7, **ROPE)


# The `with` block


def current_functions() -> list[Any]:
    return [getattr(mx.fast, name) for name in NAMES]


@pytest.fixture
def restored() -> Iterator[None]:
    before = current_functions()
    yield
    assert current_functions() == before


def test_mlx_is_restored_after_an_error_and_after_a_nested_block(tiny_model: LanguageModel, restored: None) -> None:
    before, swiglu = current_functions(), llama.swiglu
    with pytest.raises(ZeroDivisionError), fast_ops(tiny_model.model):
        outer = current_functions()
        assert all(a is not b for a, b in zip(outer, before, strict=True))
        assert llama.swiglu is not swiglu
        with fast_ops(tiny_model.model):
            assert current_functions() != outer
        assert current_functions() == outer
        raise ZeroDivisionError
    assert llama.swiglu is swiglu


def test_mlx_is_restored_if_entering_the_block_fails(monkeypatch: pytest.MonkeyPatch, restored: None) -> None:
    class Model(nn.Module):
        __module__ = "no module"

    with pytest.raises(KeyError), fast_ops(Model()):
        pass

    def failing(_: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), fast_ops(nn.Module(), failing):
        pass


@pytest.mark.parametrize("device", ["cpu", "metal", "cuda"])
def test_on_a_gpu_only_the_attention_is_replaced(
    tiny_model: LanguageModel, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, swiglu, originals = current_functions(), llama.swiglu, []

    def wrap_attention(original: Callable[..., mx.array]) -> Callable[..., mx.array]:
        originals.append(original)
        return other

    def other(*args: Any, **kwargs: Any) -> mx.array:
        return mx.array(7.0)

    for module in (cpu_ops, cpu_exp):
        monkeypatch.setattr(module, "device_name", lambda: device)
    with fast_ops(tiny_model.model):
        assert (current_functions() == before) == (device != "cpu")
        assert (llama.swiglu is swiglu) == (device != "cpu")
    with fast_ops(tiny_model.model, wrap_attention):
        assert mx.fast.scaled_dot_product_attention is other
        assert (current_functions()[1:] == before[1:]) == (device != "cpu")
    assert len(originals) == 1 and (originals[0] is before[0]) == (device != "cpu")
    assert current_functions() == before
