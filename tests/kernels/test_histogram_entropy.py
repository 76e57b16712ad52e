"""`histogram_entropy.metal` and its plain operations against a histogram in exact integers."""

from __future__ import annotations

from fractions import Fraction

import mlx.core as mx
import numpy as np
import pytest

from mlx_personal.kernels import build, histogram_entropy
from mlx_personal.kernels.histogram_entropy import histogram_entropy_kernel, histogram_entropy_ops

pytestmark = pytest.mark.metal

DTYPES = [mx.float32, mx.float16, mx.bfloat16]


def reference(states: np.ndarray) -> float:
    """Return the entropy of one dialogue [T, D] in exact integers: all values are multiples of 2^-149."""
    if len(states) == 0 or np.ptp(states[-1]) == 0:
        return 0.0
    values = [int(Fraction(value) * 2**149) for value in states[-1].tolist()]
    low, span = min(values), max(values) - min(values)
    bins = [min(100 * (value - low) // span, 99) for value in values]
    p = np.bincount(bins) / len(bins)
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum() / np.log2(len(states) + 1))


def check(states: np.ndarray, lengths: list[int], dtype: mx.Dtype = mx.float32) -> None:
    rounded = mx.array(states.astype(np.float32)).astype(dtype)
    exact = np.array(rounded.astype(mx.float32)).astype(np.float64)
    expected = [reference(row[: max(length, 0)]) for row, length in zip(exact, lengths, strict=True)]
    sizes = mx.array(lengths, mx.int32)
    for implementation in (histogram_entropy_kernel, histogram_entropy_ops):
        result = implementation(rounded, sizes)
        assert result.shape == (len(states),) and result.dtype == mx.float32
        np.testing.assert_allclose(np.array(result), expected, rtol=1e-5, atol=1e-7, err_msg=implementation.__name__)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_last_token_of_each_dialogue_is_read(machine: None, dtype: mx.Dtype) -> None:
    check(random(6, 9, 300), [0, 1, 2, 8, 9, -3], dtype)


@pytest.mark.parametrize("dimensions", [1, 2, 33, 255, 256, 257, 4096])
def test_dimensions_below_and_above_a_threadgroup(machine: None, dimensions: int) -> None:
    check(random(2, 1, dimensions, seed=dimensions), [1, 1])


VALUES = {
    "at every edge": np.arange(101) / 64,
    "at every edge and slightly below": np.concatenate([np.arange(101), np.nextafter(np.arange(1, 101, dtype="f"), 0)]),
    "halves of a range of one": np.tile([-0.5, 0.0, 0.25, 0.5], 25),
    "two values": np.tile([0.0, 1.0], 50),
    "equal values": np.full(100, 0.1),
    "zeros": np.zeros(100),
    "nearly equal": np.tile([1.0, np.nextafter(np.float32(1), np.float32(2))], 50),
    "large offset": 1000.0 + random(300) * 1e-2,
    "large": random(300) * 1e20,
    "huge": random(300) * 1e37,
    "nearly the whole range of float32": np.linspace(-3.3e38, 3.3e38, 300),
    "tiny": random(300) * 1e-30,
    "one outlier": np.append(random(300), 1e6),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", VALUES)
def test_adversarial_values(machine: None, name: str, dtype: mx.Dtype) -> None:
    values, largest = VALUES[name], np.abs(VALUES[name]).max()
    if dtype == mx.float16 and largest > 0:  # as extreme as the dtype allows
        values = values / largest * np.clip(largest, 1e-3, 6e4)
    check(values[None, None], [1], dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_values_on_an_edge(machine: None, dtype: mx.Dtype) -> None:
    rng = np.random.default_rng(0)
    grids = rng.integers(0, 101, (24, 1, 300)) * rng.uniform(0.01, 3, (24, 1, 1))
    check(np.concatenate([grids, random(24, 1, 300)]), [1] * 48, dtype)


def test_bins_equal_numpys_away_from_edges() -> None:
    x = random(8, 1, 500).astype(np.float32)
    for row, result in zip(x, np.array(histogram_entropy(mx.array(x), mx.ones(8, mx.int32))), strict=True):
        counts, _ = np.histogram(row[0].astype(np.float64), bins=100)
        p = counts[counts > 0] / 500
        assert result == pytest.approx(-(p * np.log2(p)).sum(), rel=1e-5)


def test_non_contiguous_inputs(machine: None) -> None:
    x = mx.array(random(90, 4, 3), mx.float32).transpose(2, 1, 0)[:, ::-1, ::2]
    lengths = mx.array([4, 0, 2, 0, 1, 0], mx.int32)[::2]
    expected = [reference(np.array(x)[i, :length].astype(np.float64)) for i, length in enumerate([4, 2, 1])]
    np.testing.assert_allclose(np.array(histogram_entropy_kernel(x, lengths)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("states", "lengths", "message"),
    [
        (mx.zeros((3, 4)), mx.zeros(3, mx.int32), r"states must have the shape .*, not \[3, 4\]"),
        (
            mx.zeros((3, 2, 4), mx.int32),
            mx.zeros(3, mx.int32),
            "states must be float32, float16 or bfloat16, not int32",
        ),
        (mx.zeros((3, 2, 4)), mx.zeros((3, 1), mx.int32), r"lengths must have the shape \[3\], not \[3, 1\]"),
        (mx.zeros((3, 2, 4)), mx.zeros(3, mx.uint32), "lengths must be int32, not uint32"),
    ],
)
def test_errors_name_the_wrong_argument(states: mx.array, lengths: mx.array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        histogram_entropy(states, lengths)


def test_no_dialogues_give_no_entropies() -> None:
    assert histogram_entropy(mx.zeros((0, 5, 4)), mx.zeros(0, mx.int32)).shape == (0,)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_the_kernel_is_used_if_there_is_a_gpu(machine: None, monkeypatch: pytest.MonkeyPatch, on_gpu: bool) -> None:
    monkeypatch.setattr(build, "on_gpu", lambda: on_gpu)
    x = mx.array(random(1, 3, 50), mx.float32)
    result = histogram_entropy(x, mx.array([3], mx.int32))
    assert result.item() == pytest.approx(reference(np.array(x[0]).astype(np.float64)), rel=1e-5)
    assert build.build_kernel.cache_info().currsize == int(on_gpu)
