"""`spectral_entropy.metal`, its plain operations and its CPU form against singular values in NumPy's float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.kernels import build, spectral_entropy
from mlx_personal.kernels.spectral_entropy import spectral_entropy_cpu, spectral_entropy_kernel, spectral_entropy_ops
from tests.support.cases import quick_cases, slow_cases

pytestmark = pytest.mark.metal

HALF = [mx.float16, mx.bfloat16]
# The absolute tolerance is for scores near 0 in a range of 0..1: eigenvalues of 0 come out as 1e-7 of the largest.
RTOL, ATOL = 1e-5, 2e-6


def reference(states: np.ndarray) -> float:
    """Return the entropy of one dialogue [T, D] from singular values, which need no Gram matrix."""
    length = len(states)
    if length < 2:
        return 0.0
    windows = max(1, math.ceil(length / 64))
    starts = [0] if windows == 1 else [math.floor(i * (length - 64) / (windows - 1)) for i in range(windows)]
    return float(np.mean([window_entropy(states[start : start + 64]) for start in starts])) / math.log(64)


def window_entropy(window: np.ndarray) -> float:
    scaled = window / (np.abs(window).max() or 1.0)
    variances = np.linalg.svd(scaled - scaled.mean(axis=0), compute_uv=False) ** 2
    if variances.sum() <= 1e-12 * np.square(scaled).sum():
        return 0.0
    p = variances / variances.sum()
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


IMPLEMENTATIONS = (spectral_entropy_kernel, spectral_entropy_ops, spectral_entropy_cpu)


def check(
    states: np.ndarray, lengths: list[int], dtype: mx.Dtype = mx.float32, implementations: Any = IMPLEMENTATIONS
) -> None:
    """Check that implementations equal the reference for the values as rounded to the dtype."""
    rounded = mx.array(states.astype(np.float32)).astype(dtype)
    exact = np.array(rounded.astype(mx.float32)).astype(np.float64)
    expected = np.array([reference(row[: max(length, 0)]) for row, length in zip(exact, lengths, strict=True)])
    sizes = mx.array(lengths, mx.int32)
    for implementation in implementations:
        result = implementation(rounded, sizes)
        assert result.shape == expected.shape and result.dtype == mx.float32
        np.testing.assert_allclose(np.array(result), expected, rtol=RTOL, atol=ATOL, err_msg=implementation.__name__)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("dtype", [mx.float32, *slow_cases(*HALF)], ids=str)
@pytest.mark.parametrize("lengths", [[0, 1, 3, 65, -1], *slow_cases([0, 1, 2, 3, 63, 64, 65, 130, 140, -1])], ids=len)
def test_ragged_lengths(machine: None, lengths: list[int], dtype: mx.Dtype) -> None:
    check(random(len(lengths), 140, 40), lengths, dtype)


@pytest.mark.parametrize("dimensions", quick_cases([1, 2, 31, 32, 33, 64, 384], 1, 33))
def test_dimensions_that_are_not_a_multiple_of_a_tile(machine: None, dimensions: int) -> None:
    check(random(2, 66, dimensions, seed=dimensions), [66, 17])


def test_a_length_beyond_the_states_counts_as_all_tokens(machine: None) -> None:
    x = mx.array(random(1, 20, 8), mx.float32)
    for implementation in IMPLEMENTATIONS:
        beyond = implementation(x, mx.array([99], mx.int32))
        assert beyond.item() == pytest.approx(reference(np.array(x[0]).astype(np.float64)), rel=1e-5)


@pytest.mark.slow
def test_8192_tokens_that_vary_in_three_regions(machine: None) -> None:
    x = np.ones((1, 8192, 3))
    for start in (0, 4000, 8100):
        x[:, start : start + 92] = random(92, 3, seed=start)
    check(x, [8192])


# Each [1, 64 or 65 tokens, 48 dimensions].
STATES = {
    "constant": np.full((1, 65, 48), 0.1),
    "zero": np.zeros((1, 65, 48)),
    "one vector many times its size": np.outer(np.arange(1, 65), random(48))[None],
    "two tokens in turn": np.tile(random(1, 2, 48), (1, 32, 1)),
    "one token that differs": np.where(np.arange(64)[None, :, None] == 40, random(48), 0.5),
    "all different directions": np.eye(64)[None],
    "one large direction": random(1, 64, 48) * np.where(np.arange(48) == 7, 1000.0, 1.0),
    "falling spectrum": random(1, 64, 48) * 2.0 ** -np.arange(48),
    "large common offset": random(1, 64, 48) * 0.01 + 1000.0,
    "rounding only": 1000.0 + random(1, 64, 48) * 1e-5,
    "huge": random(1, 65, 48) * 1e37,
    "nearly too huge": np.sign(random(1, 65, 48)) * 3e38,
    "tiny": random(1, 65, 48) * 1e-30,
    "huge beside tiny": random(1, 65, 48) * np.where(np.arange(48) < 24, 1e30, 1e-30),
    "very tiny": random(1, 65, 48) * 1e-35,
    "slightly too little variance": 1 + np.sign(random(1, 64, 48)) * 2.0**-21,
    "just enough variance": 1 + np.sign(random(1, 64, 48)) * 2.0**-19,
    "two tokens are the mean": np.insert(np.concatenate([random(31, 48), -random(31, 48)]), [0, 31], 0, axis=0)[None],
    "first half constant": np.concatenate([np.ones((1, 32, 48)), random(1, 33, 48)], axis=1),
}


def adversarial_cases() -> list[Any]:
    """Return all states in all dtypes; most are slow tests, since a kernel takes long without a GPU."""
    quick = ("falling spectrum", "huge beside tiny", "rounding only", "just enough variance")
    cases = [
        pytest.param(name, mx.float32, id=f"{name}-float32", marks=() if name in quick else pytest.mark.slow)
        for name in STATES
    ]
    for name, dtype in itertools.product(STATES, HALF):
        marks = () if name == "huge" and dtype == mx.bfloat16 else pytest.mark.slow
        cases.append(pytest.param(name, dtype, id=f"{name}-{dtype}", marks=marks))
    return cases


@pytest.mark.parametrize("name", STATES)
def test_adversarial_states_without_a_kernel(name: str) -> None:
    check(STATES[name], [STATES[name].shape[1]], implementations=IMPLEMENTATIONS[1:])


@pytest.mark.parametrize(("name", "dtype"), adversarial_cases())
def test_adversarial_states(machine: None, name: str, dtype: mx.Dtype) -> None:
    states, largest = STATES[name], np.abs(STATES[name]).max()
    if dtype == mx.float16 and largest > 0:  # as extreme as the dtype allows
        states = states / largest * np.clip(largest, 1e-3, 6e4)
    check(states, [states.shape[1]], dtype)


def test_non_contiguous_inputs(machine: None) -> None:
    x = mx.array(random(40, 3, 20), mx.float32).transpose(1, 0, 2)[:, ::2, ::-1]
    lengths = mx.array([9, 20, 7, 13, 2, 5], mx.int32)[::2]
    expected = [reference(np.array(x)[i, :length].astype(np.float64)) for i, length in enumerate([9, 7, 2])]
    np.testing.assert_allclose(np.array(spectral_entropy_kernel(x, lengths)), expected, rtol=RTOL, atol=ATOL)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 70), st.integers(1, 40), st.integers(1, 70), st.integers(0, 99), st.floats(1e-20, 1e20))
def test_any_states(length: int, dimensions: int, rank: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    low_rank = rng.standard_normal((1, 70, rank)) @ rng.standard_normal((rank, dimensions))
    x = mx.array((scale * low_rank).astype(np.float32))
    expected = reference(np.array(x[0, :length]).astype(np.float64))
    for implementation in (spectral_entropy_ops, spectral_entropy_cpu):
        assert implementation(x, mx.array([length], mx.int32)).item() == pytest.approx(expected, rel=1e-5, abs=2e-6)


@pytest.mark.parametrize(
    ("states", "lengths", "message"),
    [
        (
            mx.zeros((3, 4)),
            mx.zeros(3, mx.int32),
            r"states must have the shape \[dialogues, tokens, dimensions\], not \[3, 4\]",
        ),
        (mx.zeros((3, 0, 4)), mx.zeros(3, mx.int32), r"states must have the shape .*not \[3, 0, 4\]"),
        (
            mx.zeros((3, 2, 4), mx.int32),
            mx.zeros(3, mx.int32),
            "states must be float32, float16 or bfloat16, not int32",
        ),
        (mx.zeros((3, 2, 4)), mx.zeros(2, mx.int32), r"lengths must have the shape \[3\], not \[2\]"),
        (mx.zeros((3, 2, 4)), mx.zeros(3), "lengths must be int32, not float32"),
    ],
)
def test_errors_name_the_wrong_argument(states: mx.array, lengths: mx.array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spectral_entropy(states, lengths)


def test_no_dialogues_give_no_entropies() -> None:
    assert spectral_entropy(mx.zeros((0, 5, 4)), mx.zeros(0, mx.int32)).shape == (0,)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_the_kernel_is_used_if_there_is_a_gpu(machine: None, monkeypatch: pytest.MonkeyPatch, on_gpu: bool) -> None:
    monkeypatch.setattr(build, "on_gpu", lambda: on_gpu)
    x = random(2, 70, 12)
    expected = [reference(x[0].astype(np.float32).astype(np.float64)), 0.0]
    result = spectral_entropy(mx.array(x, mx.float32), mx.array([70, 1], mx.int32))
    np.testing.assert_allclose(np.array(result), expected, rtol=RTOL, atol=ATOL)
    assert build.build_kernel.cache_info().currsize == int(on_gpu)
