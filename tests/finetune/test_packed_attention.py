"""Permutation of rows, and attention over packed sequences against each sequence alone in float64."""

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


# Permutation


@st.composite
def permutations(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Draw some of `count` rows, each at most once, in any order, with padding between them."""
    count = draw(st.integers(1, 12))
    taken = draw(st.lists(st.integers(0, count - 1), unique=True))
    padding = draw(st.integers(0 if taken else 1, 4))
    return np.array(draw(st.permutations([*taken, *[-1] * padding]))), count


@given(permutations(), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_rows_are_permuted_and_their_gradients_back(permutation: tuple[np.ndarray, int], width: int) -> None:
    origins, count = permutation
    rng = np.random.default_rng(0)
    x, cotangent = normal(rng, count, width), normal(rng, len(origins), width)
    # The gradient of padding must not reach anything.
    cotangent[origins < 0] = np.nan
    (result,), (gradient,) = mx.vjp(Permutation(origins, count), [mx.array(x)], [mx.array(cotangent)])
    assert result.shape == (len(origins), width)
    real = origins >= 0
    np.testing.assert_array_equal(np.array(result)[real], x[origins[real]])
    expected = np.zeros_like(x)
    expected[origins[real]] = cotangent[real]
    np.testing.assert_array_equal(np.array(gradient), expected)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("origins", [[2, 0, 1], [2, -1, 0]])
def test_values_and_gradients_keep_the_dtype(origins: list[int], dtype: mx.Dtype) -> None:
    x = mx.ones((3, 2), dtype)
    (result,), (gradient,) = mx.vjp(Permutation(np.array(origins), 3), [x], [x])
    assert result.dtype == gradient.dtype == dtype


def test_a_permutation_and_its_inverse_are_the_identity() -> None:
    order = np.random.default_rng(0).permutation(20)
    forward, inverse = Permutation(order, 20), Permutation(np.argsort(order), 20)
    x = mx.random.normal((20, 3), key=mx.random.key(0))
    assert mx.array_equal(inverse(forward(x)), x)
    cotangent = mx.random.normal((20, 3), key=mx.random.key(1))
    assert mx.array_equal(mx.vjp(lambda x: inverse(forward(x)), [x], [cotangent])[1][0], cotangent)


# Packed attention


def causal_attention(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=SCALE, mask="causal")


def random_arrays(
    lengths: list[int], heads: int, group_size: int, width: int, value_width: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return q, k, v [1, H, T, d] of packed sequences of these lengths, and a cotangent of the output."""
    rng, tokens = np.random.default_rng(sum(lengths)), sum(lengths)
    arrays = [
        normal(rng, 1, heads * group_size, tokens, width),
        normal(rng, 1, heads, tokens, width),
        normal(rng, 1, heads, tokens, value_width),
    ]
    return arrays, normal(rng, 1, heads * group_size, tokens, value_width)


def one_by_one(lengths: list[int], arrays: list[np.ndarray], cotangent: np.ndarray) -> list[np.ndarray]:
    """Compute outputs and gradients in float64, for each sequence alone."""
    result = []
    for stop, length in zip(np.cumsum(lengths), lengths, strict=True):
        sequence = slice(stop - length, stop)
        q, k, v, of_sequence = (a[:, :, sequence] for a in (*arrays, cotangent))
        bias = np.broadcast_to(float64.causal_bias(length, length), (*q.shape[:3], length))
        result.append(float64.attention(q, k, v, SCALE, bias, of_sequence)[:4])
    return [np.concatenate(parts, axis=2) for parts in zip(*result, strict=True)]


def packed_attention(
    lengths: list[int],
    arrays: list[np.ndarray],
    cotangent: np.ndarray,
    attention: Callable[..., mx.array] = causal_attention,
) -> list[np.ndarray]:
    values, gradients = mx.vjp(
        functools.partial(PackedAttention(lengths).attend, attention),
        [mx.array(a) for a in arrays],
        [mx.array(cotangent)],
    )
    return [np.array(a) for a in (*values, *gradients)]


sequence_lengths = st.lists(st.integers(1, 24), min_size=1, max_size=9)


@given(sequence_lengths, st.integers(1, 3), st.integers(1, 3), st.integers(1, 8), st.integers(1, 8), st.booleans())
@settings(max_examples=50, deadline=None)
def test_packed_attention_equals_that_of_each_sequence_alone(
    lengths: list[int], heads: int, group_size: int, width: int, value_width: int, cpu_ops: bool
) -> None:
    """With MLX's attention and with the CPU's."""
    arrays, cotangent = random_arrays(lengths, heads, group_size, width, value_width)
    expected = one_by_one(lengths, arrays, cotangent)
    if cpu_ops:
        with fast_ops(nn.Module()):
            result = packed_attention(lengths, arrays, cotangent)
    else:
        result = packed_attention(lengths, arrays, cotangent)
    for name, a, b in zip(("output", "q", "k", "v"), result, expected, strict=True):
        assert float64.relative_error(a, b) < 3e-6, name


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_buckets_are_few_and_hardly_padded(lengths: list[int]) -> None:
    """Every sequence is in one bucket, and none is padded by more than half of its length."""
    called: list[tuple[int, ...]] = []

    def counting(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        called.append(q.shape)
        return v

    x = mx.arange(2.0 * sum(lengths)).reshape(1, 2, -1, 1)
    assert mx.array_equal(PackedAttention(lengths).attend(counting, x, x, x), x)
    assert sum(shape[0] for shape in called) == len(lengths)
    in_order, padded = sorted(lengths, reverse=True), [n for r, _, n, _ in called for _ in range(r)]
    assert all(n >= length >= n * 2 / 3 for n, length in zip(padded, in_order, strict=True))
    # The longest sequence of a bucket is more than 1.5 times as long as that of the next bucket.
    assert all(2 * a[2] > 3 * b[2] for a, b in itertools.pairwise(called))


@pytest.mark.parametrize("cpu_ops", [False, True])
def test_sequences_do_not_affect_each_other(cpu_ops: bool) -> None:
    """Least of all the first one, whose first token fills the padding of the others.

    The exponential of a CPU is never exactly 0: a masked key gets a probability of 1e-38.
    """
    lengths = [3, 8, 7, 6, 20, 19]
    arrays, cotangent = random_arrays(lengths, 2, 2, 8, 8)
    changed = [a.copy() for a in arrays]
    for array in changed:
        array[:, :, :3] *= 1e3
    with fast_ops(nn.Module()) if cpu_ops else mx.stream(mx.default_device()):
        before, after = packed_attention(lengths, arrays, cotangent), packed_attention(lengths, changed, cotangent)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b[:, :, 3:], a[:, :, 3:], rtol=0, atol=1e-30 if cpu_ops else 0)
        assert (a[:, :, :3] != b[:, :, :3]).any()


def test_the_dtype_is_kept() -> None:
    arrays, _ = random_arrays([5, 2, 4], 2, 1, 8, 8)
    q, k, v = (mx.array(a).astype(mx.bfloat16) for a in arrays)
    result = PackedAttention([5, 2, 4]).attend(causal_attention, q, k, v)
    assert result.dtype == mx.bfloat16
    expected = one_by_one([5, 2, 4], arrays, arrays[0])[0]
    assert float64.relative_error(result.astype(mx.float32), expected) < 2e-2


def test_layers_with_other_head_counts_share_one_object() -> None:
    """As in families whose layers differ."""
    packing = PackedAttention([4, 9, 3])
    for heads, group_size in ((2, 2), (1, 1), (2, 2), (4, 1)):
        arrays, cotangent = random_arrays([4, 9, 3], heads, group_size, 4, 4)
        result = packing.attend(causal_attention, *map(mx.array, arrays))
        assert float64.relative_error(result, one_by_one([4, 9, 3], arrays, cotangent)[0]) < 3e-6


def test_it_is_freed_with_its_batch() -> None:
    packing: Any = PackedAttention([4, 2])
    x = mx.ones((1, 1, 6, 4))
    mx.eval(packing.attend(causal_attention, x, x, x))
    watched = weakref.ref(packing)
    del packing
    mx.synchronize()  # what still runs holds arrays
    gc.collect()
    assert watched() is None
