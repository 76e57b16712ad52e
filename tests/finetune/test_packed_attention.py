"""Rows in another order, and attention over packed rows in groups: as each row alone, in float64, gradients too."""

from __future__ import annotations

import functools
import gc
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.finetune.forward.packed_attention import PackedAttention
from mlx_personal.finetune.forward.permutation import Permutation
from mlx_personal.runtime.cpu_ops import fast_ops
from tests.support import float64

SCALE = 0.4


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


# Rearrangement


@st.composite
def orders(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Some of `count` rows, each at most once, in any order, and padding between them."""
    count = draw(st.integers(1, 12))
    taken = draw(st.lists(st.integers(0, count - 1), unique=True))
    padding = draw(st.integers(0 if taken else 1, 4))
    return np.array(draw(st.permutations([*taken, *[-1] * padding]))), count


@given(orders(), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_rows_go_where_they_belong_and_their_slopes_back(order: tuple[np.ndarray, int], width: int) -> None:
    origins, count = order
    rng = np.random.default_rng(0)
    x, slope = normal(rng, count, width), normal(rng, len(origins), width)
    # Nothing may come of padding, whatever reaches it.
    slope[origins < 0] = np.nan
    (found,), (gradient,) = mx.vjp(Permutation(origins, count), [mx.array(x)], [mx.array(slope)])
    assert found.shape == (len(origins), width)
    real = origins >= 0
    np.testing.assert_array_equal(np.array(found)[real], x[origins[real]])
    wanted = np.zeros_like(x)
    wanted[origins[real]] = slope[real]
    np.testing.assert_array_equal(np.array(gradient), wanted)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("origins", [[2, 0, 1], [2, -1, 0]])
def test_numbers_and_slopes_stay_of_their_kind(origins: list[int], dtype: mx.Dtype) -> None:
    x = mx.ones((3, 2), dtype)
    (found,), (gradient,) = mx.vjp(Permutation(np.array(origins), 3), [x], [x])
    assert found.dtype == gradient.dtype == dtype


def test_there_and_back_is_where_one_was() -> None:
    order = np.random.default_rng(0).permutation(20)
    there, back = Permutation(order, 20), Permutation(np.argsort(order), 20)
    x = mx.random.normal((20, 3), key=mx.random.key(0))
    assert mx.array_equal(back(there(x)), x)
    slope = mx.random.normal((20, 3), key=mx.random.key(1))
    assert mx.array_equal(mx.vjp(lambda x: back(there(x)), [x], [slope])[1][0], slope)


# Grouping


def plain(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=SCALE, mask="causal")


def packed(
    lengths: list[int], heads: int, shared: int, width: int, value_width: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """q, k, v [1, H, T, d] of rows of these lengths, and a slope for what becomes of them."""
    rng, tokens = np.random.default_rng(sum(lengths)), sum(lengths)
    arrays = [
        normal(rng, 1, heads * shared, tokens, width),
        normal(rng, 1, heads, tokens, width),
        normal(rng, 1, heads, tokens, value_width),
    ]
    return arrays, normal(rng, 1, heads * shared, tokens, value_width)


def row_by_row(lengths: list[int], arrays: list[np.ndarray], slope: np.ndarray) -> list[np.ndarray]:
    """Value and gradients in float64, each row alone."""
    found = []
    for stop, length in zip(np.cumsum(lengths), lengths, strict=True):
        row = slice(stop - length, stop)
        q, k, v, own_slope = (a[:, :, row] for a in (*arrays, slope))
        added = np.broadcast_to(float64.causal_bias(length, length), (*q.shape[:3], length))
        found.append(float64.attention(q, k, v, SCALE, added, own_slope)[:4])
    return [np.concatenate(parts, axis=2) for parts in zip(*found, strict=True)]


def grouped(
    lengths: list[int], arrays: list[np.ndarray], slope: np.ndarray, attention: Callable[..., mx.array] = plain
) -> list[np.ndarray]:
    values, gradients = mx.vjp(
        functools.partial(PackedAttention(lengths).attend, attention), [mx.array(a) for a in arrays], [mx.array(slope)]
    )
    return [np.array(a) for a in (*values, *gradients)]


rows = st.lists(st.integers(1, 24), min_size=1, max_size=9)


@given(rows, st.integers(1, 3), st.integers(1, 3), st.integers(1, 8), st.integers(1, 8), st.booleans())
@settings(max_examples=50, deadline=None)
def test_attention_in_groups_is_that_of_each_row_alone(
    lengths: list[int], heads: int, shared: int, width: int, value_width: int, own: bool
) -> None:
    """By MLX's attention and by that of a CPU."""
    arrays, slope = packed(lengths, heads, shared, width, value_width)
    wanted = row_by_row(lengths, arrays, slope)
    if own:
        with fast_ops(nn.Module()):
            found = grouped(lengths, arrays, slope)
    else:
        found = grouped(lengths, arrays, slope)
    for name, a, b in zip(("value", "q", "k", "v"), found, wanted, strict=True):
        assert float64.relative_error(a, b) < 3e-6, name


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_groups_are_few_and_hardly_padded(lengths: list[int]) -> None:
    """Every row is in one group, none is padded by more than half of its length."""
    called: list[tuple[int, ...]] = []

    def counting(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        called.append(q.shape)
        return v

    x = mx.arange(2.0 * sum(lengths)).reshape(1, 2, -1, 1)
    assert mx.array_equal(PackedAttention(lengths).attend(counting, x, x, x), x)
    assert sum(shape[0] for shape in called) == len(lengths)
    in_order, padded = sorted(lengths, reverse=True), [n for r, _, n, _ in called for _ in range(r)]
    assert all(n >= length >= n * 2 / 3 for n, length in zip(padded, in_order, strict=True))
    # Of two groups, the longest of one is over half as long again as that of the other.
    assert all(2 * a[2] > 3 * b[2] for a, b in itertools.pairwise(called))


@pytest.mark.parametrize("own", [False, True])
def test_what_stands_in_one_row_changes_nothing_in_another(own: bool) -> None:
    """The first row above all, whose first token fills the padding of the others.

    The exponential of a CPU is never quite 0: what is not seen has a share of 1e-38.
    """
    lengths = [3, 8, 7, 6, 20, 19]
    arrays, slope = packed(lengths, 2, 2, 8, 8)
    changed = [a.copy() for a in arrays]
    for array in changed:
        array[:, :, :3] *= 1e3
    with fast_ops(nn.Module()) if own else mx.stream(mx.default_device()):
        before, after = grouped(lengths, arrays, slope), grouped(lengths, changed, slope)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b[:, :, 3:], a[:, :, 3:], rtol=0, atol=1e-30 if own else 0)
        assert (a[:, :, :3] != b[:, :, :3]).any()


def test_numbers_stay_of_their_kind() -> None:
    arrays, _ = packed([5, 2, 4], 2, 1, 8, 8)
    q, k, v = (mx.array(a).astype(mx.bfloat16) for a in arrays)
    found = PackedAttention([5, 2, 4]).attend(plain, q, k, v)
    assert found.dtype == mx.bfloat16
    wanted = row_by_row([5, 2, 4], arrays, arrays[0])[0]
    assert float64.relative_error(found.astype(mx.float32), wanted) < 2e-2


def test_blocks_with_other_heads_may_share_a_grouping() -> None:
    """As in families whose blocks differ."""
    grouping = PackedAttention([4, 9, 3])
    for heads, shared in ((2, 2), (1, 1), (2, 2), (4, 1)):
        arrays, slope = packed([4, 9, 3], heads, shared, 4, 4)
        found = grouping.attend(plain, *map(mx.array, arrays))
        assert float64.relative_error(found, row_by_row([4, 9, 3], arrays, slope)[0]) < 3e-6


def test_a_grouping_is_gone_with_its_batch() -> None:
    grouping: Any = PackedAttention([4, 2])
    x = mx.ones((1, 1, 6, 4))
    mx.eval(grouping.attend(plain, x, x, x))
    watched = weakref.ref(grouping)
    del grouping
    gc.collect()
    assert watched() is None
