"""Attention, normalization and rotary embedding of a CPU and their gradients, against float64; what stays MLX's."""

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
from mlx_personal.runtime import cpu_exp
from mlx_personal.runtime import cpu_ops as fast_module
from mlx_personal.runtime.cpu_ops import fast
from mlx_personal.runtime.device import device_name
from tests.support import float64

pytestmark = pytest.mark.skipif(device_name() != "cpu", reason="a GPU uses MLX's own")

NAMES = ("scaled_dot_product_attention", "rms_norm", "rope")
ORIGINALS = {name: getattr(mx.fast, name) for name in NAMES}
ROPE: dict[str, Any] = {"traditional": False, "base": 1e4, "scale": 1.0, "offset": 0}


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def within(name: str, *args: Any, **kwargs: Any) -> mx.array:
    """What MLX's function of this name gives inside the `with`."""
    with fast(nn.Module()):
        found: mx.array = getattr(mx.fast, name)(*args, **kwargs)
        return found


def slopes_within(name: str, arrays: list[mx.array], slope: mx.array, *args: Any, **kwargs: Any) -> list[mx.array]:
    """The value, and its gradients by these arguments, times `slope`."""
    values, gradients = mx.vjp(lambda *arrays: within(name, *arrays, *args, **kwargs), arrays, [slope])
    return [*values, *gradients]


@pytest.fixture
def passed_on(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of MLX's own functions have been called."""
    called: list[str] = []

    def recording(name: str) -> Callable[..., mx.array]:
        def call(*args: Any, **kwargs: Any) -> mx.array:
            called.append(name)
            found: mx.array = ORIGINALS[name](*args, **kwargs)
            return found

        return call

    for name in NAMES:
        monkeypatch.setattr(mx.fast, name, recording(name))
    return called


# Attention


def test_the_references_gradient_is_its_slope() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) for shape in ((1, 2, 3, 4), (1, 1, 5, 4), (1, 1, 5, 3))]

    def attended(arrays: list[np.ndarray]) -> float64.Attended:
        q, k, v = arrays
        return float64.attention(q, k, v, 0.7, added, slope)

    added = rng.normal(size=(1, 2, 3, 5)) + float64.causal(3, 5)
    slope = rng.normal(size=(1, 2, 3, 3))
    found = attended(arrays)
    for i, gradient in enumerate((found.q, found.k, found.v)):
        at = tuple(rng.integers(0, size) for size in arrays[i].shape)
        sums = []
        for step in (1e-5, -1e-5):
            moved = [array.copy() for array in arrays]
            moved[i][at] += step
            sums.append((attended(moved).value * slope).sum())
        assert gradient[at] == pytest.approx((sums[0] - sums[1]) / 2e-5, rel=1e-6)


def check_attention(arrays: list[np.ndarray], mask: Any, added: np.ndarray, scale: float) -> None:
    """Values and gradients with `mask`, of which `added` [B, H, n, m] is what the reference makes."""
    q, _, v = arrays
    slope = normal(np.random.default_rng(1), *q.shape[:3], v.shape[3])
    wanted = float64.attention(arrays[0], arrays[1], arrays[2], scale, added, slope)
    found = slopes_within(NAMES[0], [mx.array(a) for a in arrays], mx.array(slope), scale=scale, mask=mask)
    for name, own, reference in zip(("value", "q", "k", "v"), found, wanted, strict=False):
        assert float64.off(own, reference) < 2e-6, name


sizes = st.integers(1, 3)


@given(
    st.tuples(sizes, sizes, sizes, st.integers(1, 7), st.integers(0, 6), st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from(["none", "causal", "bool", "added"]),
    st.integers(0, 15),
    st.integers(2, 4),
    st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_attention_and_its_gradients_are_those_of_float64(
    shape: tuple[int, ...], kind: str, single: int, dims: int, seed: int
) -> None:
    """Query heads that share keys, more keys than queries, values of another width, masks that are spread out."""
    rng = np.random.default_rng(seed)
    batch, keyed, shared, queries, more, width, value_width = shape
    heads, keys = keyed * shared, queries + more
    arrays = [
        normal(rng, batch, heads, queries, width),
        normal(rng, batch, keyed, keys, width),
        normal(rng, batch, keyed, keys, value_width),
    ]
    full = (batch, heads, queries, keys)
    mask: Any = None
    added = np.zeros(full)
    if kind == "causal":
        mask, added = "causal", added + float64.causal(queries, keys)
    elif kind != "none":
        # Of fewer dimensions, and of one number in some of them.
        own = [1 if single >> i & 1 else size for i, size in enumerate(full)][4 - dims :]
        seen = rng.random(own) < 0.5
        seen[..., rng.integers(own[-1])] = True  # each query sees something
        numbers = normal(rng, *own)
        mask = mx.array(seen if kind == "bool" else np.where(seen, numbers, -np.inf).astype(np.float32))
        added = added + np.where(seen, 0 if kind == "bool" else numbers, -np.inf)
    check_attention(arrays, mask, added, scale=0.5)


@pytest.mark.parametrize("shape", [(4, 3, 5), (1, 3, 5), (4, 1, 5)])
def test_a_mask_of_three_dimensions_is_for_heads(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    arrays = [normal(rng, 2, 4, 3, 8), normal(rng, 2, 2, 5, 8), normal(rng, 2, 2, 5, 8)]
    seen = rng.random(shape) < 0.6
    seen[..., 2] = True
    check_attention(arrays, mx.array(seen), np.broadcast_to(np.where(seen, 0, -np.inf), (2, 4, 3, 5)), 0.4)


def test_what_is_added_to_the_scores_has_its_gradient_too() -> None:
    """DeepSeek's families add a part of their scores as a mask."""
    rng = np.random.default_rng(0)
    arrays = [normal(rng, 1, 4, 3, 8), normal(rng, 1, 2, 5, 8), normal(rng, 1, 2, 5, 8)]
    added, slope = normal(rng, 1, 4, 3, 5), normal(rng, 1, 4, 3, 8)
    wanted = float64.attention(arrays[0], arrays[1], arrays[2], 0.4, added, slope)
    q, k, v = (mx.array(a) for a in arrays)

    def product(added: mx.array) -> mx.array:
        return (within(NAMES[0], q, k, v, scale=0.4, mask=added) * mx.array(slope)).sum()

    assert float64.off(mx.grad(product)(mx.array(added)), wanted.added) < 2e-6


def test_a_key_far_above_the_others_takes_all() -> None:
    rng = np.random.default_rng(0)
    q, k, v, slope = 1e4 * normal(rng, 1, 2, 6, 8), *(normal(rng, 1, heads, 6, 8) for heads in (1, 1, 2))
    wanted = float64.attention(q, k, v, 1.0, np.broadcast_to(float64.causal(6, 6), (1, 2, 6, 6)), slope)
    found = slopes_within(NAMES[0], [mx.array(a) for a in (q, k, v)], mx.array(slope), scale=1.0, mask="causal")
    # The gradient by k is a difference of numbers of q's size.
    for own, gradient, size in zip(found, wanted, (1, 1, 1e4, 1), strict=False):
        assert float64.off(np.array(own) / size, gradient / size) < 2e-6


def test_what_is_not_seen_may_be_as_large_as_it_likes_or_no_number() -> None:
    """Scores of 1e30 at a masked key change no bit, nor does NaN there."""
    rng = np.random.default_rng(0)
    q, k, v = (mx.array(normal(rng, 1, 2, 5, 8)) for _ in range(3))
    slope = mx.array(normal(rng, 1, 2, 5, 8))
    slope[:, :, 4] = 0
    seen = mx.array(np.where(np.arange(5) < 4, True, False)[None])
    found = []
    for last in (0.0, 1e30, -1e30, float("nan")):
        keys = mx.array(k)
        keys[:, :, 4] = last
        value, _, _, of_values = slopes_within(NAMES[0], [q, keys, v], slope, scale=1.0, mask=seen)
        found.append((np.array(value), np.array(of_values)))
    for others in found[1:]:
        for a, b in zip(others, found[0], strict=True):
            np.testing.assert_array_equal(a, b)
    assert np.isfinite(found[0][0]).all()


def test_later_tokens_change_no_bit_of_earlier_ones() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (normal(rng, 1, 3, 9, 8) for _ in range(3))
    before = np.array(within(NAMES[0], *map(mx.array, (q, k, v)), scale=0.3, mask="causal"))
    for array in (q, k, v):
        array[:, :, 6:] = 100 * normal(rng, 1, 3, 3, 8)
    after = np.array(within(NAMES[0], *map(mx.array, (q, k, v)), scale=0.3, mask="causal"))
    np.testing.assert_array_equal(after[:, :, :6], before[:, :, :6])
    assert (after[:, :, 6:] != before[:, :, 6:]).any()


def test_no_number_stays_none_for_the_query_that_sees_it() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (mx.array(normal(rng, 1, 1, 4, 8)) for _ in range(3))
    q[:, :, 1] = mx.nan
    found = np.isnan(np.array(within(NAMES[0], q, k, v, scale=1.0, mask="causal")))[0, 0]
    assert found.all(axis=1).tolist() == [False, True, False, False]
    assert found.any(axis=1).tolist() == [False, True, False, False]


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_attention_of_other_numbers_is_mlxs(dtype: mx.Dtype, passed_on: list[str]) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (mx.array(normal(rng, 1, heads, 4, 8)).astype(dtype) for heads in (4, 2, 2))
    found = within(NAMES[0], q, k, v, scale=0.3, mask="causal")
    assert found.dtype == dtype
    assert mx.array_equal(found, ORIGINALS[NAMES[0]](q, k, v, scale=0.3, mask="causal"))
    assert passed_on == [NAMES[0]]


def test_attention_with_sinks_is_mlxs(passed_on: list[str]) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (mx.array(normal(rng, 1, heads, 4, 8)) for heads in (4, 2, 2))
    sinks = mx.array(normal(rng, 4))
    found = within(NAMES[0], q, k, v, scale=0.3, mask="causal", sinks=sinks)
    assert mx.array_equal(found, ORIGINALS[NAMES[0]](q, k, v, scale=0.3, mask="causal", sinks=sinks))
    assert not mx.array_equal(found, within(NAMES[0], q, k, v, scale=0.3, mask="causal"))
    assert passed_on == [NAMES[0]]


def test_the_usual_calls_are_its_own(passed_on: list[str]) -> None:
    x, seen = mx.ones((1, 2, 3, 4)), mx.ones((3, 3), mx.bool_)
    for mask in (None, "causal", seen, seen[None, None]):
        within(NAMES[0], x, x, x, scale=1.0, mask=mask)
    within(NAMES[1], x, mx.ones(4), 1e-5)
    within(NAMES[2], x, 4, **ROPE)
    assert passed_on == []


# Normalization


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float, slope: np.ndarray) -> list[np.ndarray]:
    """In float64 the value, and the gradients by x and weight."""
    x, weight, slope = (a.astype(np.float64) for a in (x, weight, slope))
    size = np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    along = (slope * weight * x).mean(axis=-1, keepdims=True)
    of_weight = (slope * x / size).reshape(-1, x.shape[-1]).sum(axis=0)
    return [x / size * weight, slope * weight / size - x * along / size**3, of_weight]


def test_the_references_norm_has_its_slope() -> None:
    rng = np.random.default_rng(0)
    x, weight, slope = rng.normal(size=(2, 5)), rng.normal(size=5), rng.normal(size=(2, 5))
    _, of_x, of_weight = rms_norm(x, weight, 0.1, slope)
    step = 1e-5 * np.eye(5)[2]
    by_x = [(rms_norm(x + s * step, weight, 0.1, slope)[0] * slope).sum() for s in (1, -1)]
    by_weight = [(rms_norm(x, weight + s * step, 0.1, slope)[0] * slope).sum() for s in (1, -1)]
    assert of_x[:, 2].sum() == pytest.approx((by_x[0] - by_x[1]) / 2e-5, rel=1e-6)
    assert of_weight[2] == pytest.approx((by_weight[0] - by_weight[1]) / 2e-5, rel=1e-6)


@given(
    st.lists(st.integers(1, 5), max_size=3),
    st.integers(1, 40),
    st.sampled_from([1e-6, 1e-5, 1.0]),
    st.sampled_from([1e-6, 1e-2, 1.0, 1e4]),
    st.integers(0, 999),
)
@settings(max_examples=50, deadline=None)
def test_the_norm_and_its_gradients_are_those_of_float64(
    shape: list[int], width: int, eps: float, size: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, weight, slope = size * normal(rng, *shape, width), normal(rng, width), normal(rng, *shape, width)
    wanted = rms_norm(x, weight, eps, slope)
    found = slopes_within(NAMES[1], [mx.array(x), mx.array(weight)], mx.array(slope), eps)
    # The gradient by x is a difference of two numbers of this size.
    of_x = max(1.0, float(np.abs(slope * weight).max()) / np.sqrt(np.square(x, dtype=np.float64).mean() + eps))
    for own, reference, scale in zip(found, wanted, (1.0, of_x, 1.0), strict=True):
        assert float64.off(np.array(own, np.float64) / scale, reference / scale) < 3e-6


def test_a_token_of_zeros_stays_so_and_has_a_gradient() -> None:
    found = slopes_within(NAMES[1], [mx.zeros((1, 4)), mx.full((4,), 3.0)], mx.ones((1, 4)), 1e-4)
    np.testing.assert_array_equal(np.array(found[0]), 0)
    np.testing.assert_allclose(np.array(found[1]), 300, rtol=1e-5)
    np.testing.assert_array_equal(np.array(found[2]), 0)


def test_a_token_that_is_no_number_leaves_the_others_alone() -> None:
    x = mx.ones((3, 4))
    x[1, 2] = mx.nan
    found = np.isnan(np.array(within(NAMES[1], x, mx.ones(4), 1e-5)))
    assert found.all(axis=1).tolist() == found.any(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("dtype", "weight_dtype"), [(mx.float32, None), (mx.bfloat16, mx.bfloat16), (mx.bfloat16, mx.float32)]
)
def test_other_norms_are_mlxs(dtype: mx.Dtype, weight_dtype: mx.Dtype | None, passed_on: list[str]) -> None:
    rng = np.random.default_rng(0)
    x, weight = mx.array(normal(rng, 3, 8)).astype(dtype), None
    if weight_dtype is not None:
        weight = mx.array(normal(rng, 8)).astype(weight_dtype)
    found = within(NAMES[1], x, weight=weight, eps=1e-5)
    wanted = ORIGINALS[NAMES[1]](x, weight, 1e-5)
    assert found.dtype == wanted.dtype and mx.array_equal(found, wanted)
    assert passed_on == [NAMES[1]]


# Rotary embedding


def rope(x: np.ndarray, base: float, scale: float, offset: int) -> np.ndarray:
    """In float64: the halves of a head as the parts of complex numbers, turned."""
    half = x.shape[-1] // 2
    angles = scale * (offset + np.arange(x.shape[-2]))[:, None] * base ** (-np.arange(half) / half)
    turned = (x[..., :half].astype(np.float64) + 1j * x[..., half:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], axis=-1)


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(1, 9),
    st.integers(1, 8),
    st.sampled_from([1e2, 1e4, 1e6]),
    st.sampled_from([0.25, 1.0, 2.0]),
    st.sampled_from([0, 1, 37, 100_000]),
)
@settings(max_examples=50, deadline=None)
def test_heads_are_turned_as_in_float64_and_their_gradients_back(
    shape: list[int], tokens: int, half: int, base: float, scale: float, offset: int
) -> None:
    """Also far from the beginning, where MLX's own angles are off by a thousandth."""
    rng = np.random.default_rng(0)
    x, slope = normal(rng, *shape, tokens, 2 * half), normal(rng, *shape, tokens, 2 * half)
    found = slopes_within(
        NAMES[2], [mx.array(x)], mx.array(slope), 2 * half, traditional=False, base=base, scale=scale, offset=offset
    )
    assert float64.off(found[0], rope(x, base, scale, offset)) < 1e-6
    # The gradient of a turn is the turn back.
    assert float64.off(rope(np.array(found[1]), base, scale, offset), slope.astype(np.float64)) < 1e-6


@pytest.mark.parametrize(
    ("dims", "changes"),
    [
        (8, {"traditional": True}),
        (4, {}),
        (8, {"base": None, "freqs": mx.array([1.0, 3.0, 10.0, 70.0])}),
        (8, {"offset": mx.array([3, 11])}),
    ],
)
def test_other_rotary_embeddings_are_mlxs(dims: int, changes: dict[str, Any], passed_on: list[str]) -> None:
    x = mx.array(normal(np.random.default_rng(0), 2, 3, 5, 8))
    kwargs = {**ROPE, **changes}
    assert mx.array_equal(within(NAMES[2], x, dims, **kwargs), ORIGINALS[NAMES[2]](x, dims, **kwargs))
    assert passed_on == [NAMES[2]]


def test_rotary_embeddings_of_other_numbers_are_mlxs(passed_on: list[str]) -> None:
    x = mx.array(normal(np.random.default_rng(0), 2, 3, 5, 8)).astype(mx.bfloat16)
    found = within(NAMES[2], x, 8, **ROPE)
    assert found.dtype == mx.bfloat16 and mx.array_equal(found, ORIGINALS[NAMES[2]](x, 8, **ROPE))
    assert passed_on == [NAMES[2]]


def test_a_head_without_halves_is_refused() -> None:
    for function in (ORIGINALS[NAMES[2]], lambda *args, **kwargs: within(NAMES[2], *args, **kwargs)):
        with pytest.raises(ValueError):
            function(mx.ones((1, 2, 3, 7)), 7, **ROPE)


# The `with`


def current() -> list[Any]:
    return [getattr(mx.fast, name) for name in NAMES]


@pytest.fixture
def unchanged() -> Iterator[None]:
    before = current()
    yield
    assert current() == before


def test_mlx_is_as_before_after_an_error_and_within_another(tiny_model: LanguageModel, unchanged: None) -> None:
    before, swiglu = current(), llama.swiglu
    with pytest.raises(ZeroDivisionError), fast(tiny_model.model):
        outer = current()
        assert all(a is not b for a, b in zip(outer, before, strict=True))
        assert llama.swiglu is not swiglu
        with fast(tiny_model.model):
            assert current() != outer
        assert current() == outer
        raise ZeroDivisionError
    assert llama.swiglu is swiglu


def test_mlx_is_as_before_if_the_block_never_begins(monkeypatch: pytest.MonkeyPatch, unchanged: None) -> None:
    class Model(nn.Module):
        __module__ = "of no file"

    with pytest.raises(KeyError), fast(Model()):
        pass

    def failing(_: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), fast(nn.Module(), failing):
        pass


@pytest.mark.parametrize("device", ["cpu", "metal", "cuda"])
def test_on_a_gpu_only_attention_is_what_was_asked_for(
    tiny_model: LanguageModel, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, swiglu, given = current(), llama.swiglu, []

    def attention(own: Callable[..., mx.array]) -> Callable[..., mx.array]:
        given.append(own)
        return other

    def other(*args: Any, **kwargs: Any) -> mx.array:
        return mx.array(7.0)

    for module in (fast_module, cpu_exp):
        monkeypatch.setattr(module, "device_name", lambda: device)
    with fast(tiny_model.model):
        assert (current() == before) == (device != "cpu")
        assert (llama.swiglu is swiglu) == (device != "cpu")
    with fast(tiny_model.model, attention):
        assert mx.fast.scaled_dot_product_attention is other
        assert (current()[1:] == before[1:]) == (device != "cpu")
    assert len(given) == 1 and (given[0] is before[0]) == (device != "cpu")
    assert current() == before
