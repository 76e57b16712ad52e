"""Sampling: tokens are drawn with the probabilities of mlx-lm's filters, and penalized as by mlx-lm."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, make_repetition_penalty

from mlx_personal.models.sampling import REPETITION_CONTEXT_SIZE, SamplingParams
from mlx_personal.models.token_sampling import penalize_repetition, recent_tokens, sample_tokens

VOCABULARY_SIZE, NUM_DRAWS = 40, 4000
FILTERS: list[dict[str, Any]] = [
    {},
    {"top_p": 0.9},
    {"top_p": 0.3},
    {"top_p": 1e-9},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": VOCABULARY_SIZE},
    {"top_k": 10_000},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_p": 0.7, "top_k": 12},
    {"top_p": 0.95, "top_k": 12, "min_p": 0.02},
]


def random_logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, VOCABULARY_SIZE).astype(np.float32)


def frequencies(logits: np.ndarray, sampling: SamplingParams) -> np.ndarray:
    """Return how often each token is sampled with evenly spaced draws: its probability, to 1 / NUM_DRAWS."""
    draws = mx.arange(NUM_DRAWS) / NUM_DRAWS
    tokens = np.array(sample_tokens(mx.broadcast_to(mx.array(logits), (NUM_DRAWS, len(logits))), sampling, draws))
    assert (np.diff(tokens.astype(int)) >= 0).all()  # a larger draw gives a later token
    return np.bincount(tokens, minlength=len(logits)) / NUM_DRAWS


def probabilities(logits: np.ndarray, sampling: SamplingParams) -> np.ndarray:
    """Return the renormalized probabilities of the allowed tokens, in float64."""
    before = np.exp(logits.astype(np.float64))
    before /= before.sum()
    descending = np.argsort(-before, kind="stable")
    mass_above = np.cumsum(before[descending]) - before[descending]
    allowed = np.zeros(len(logits), bool)
    allowed[descending[mass_above < sampling.top_p]] = True
    if sampling.top_k:
        allowed[descending[sampling.top_k :]] = False
    allowed &= before >= sampling.min_p * before.max() * (1 - 1e-6)
    tempered = np.where(allowed, np.exp(logits.astype(np.float64) / sampling.temperature), 0)
    return tempered / tempered.sum()


@pytest.mark.parametrize("temperature", [0.4, 1.7])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_tokens_have_the_probabilities_of_the_allowed_ones(filters: dict[str, Any], temperature: float) -> None:
    logits, sampling = random_logits(0), SamplingParams(temperature, **filters)
    expected = probabilities(logits, sampling)
    np.testing.assert_allclose(frequencies(logits, sampling), expected, atol=2 / NUM_DRAWS)


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """Runs mlx-lm's functions without compiling them, which takes seconds."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_the_filters_are_those_of_mlx_lm(filters: dict[str, Any]) -> None:
    logits, sampling = random_logits(2), SamplingParams(0.8, **filters)
    filtered = mx.array(logits - np.logaddexp.reduce(logits))[None]
    if sampling.top_p < 1:
        filtered = apply_top_p(filtered, sampling.top_p)
    if sampling.min_p:
        filtered = apply_min_p(filtered, sampling.min_p)
    if 0 < sampling.top_k < VOCABULARY_SIZE:  # mlx-lm refuses others
        filtered = apply_top_k(filtered, sampling.top_k)
    expected = np.array(mx.softmax(filtered / sampling.temperature, axis=-1))[0]
    np.testing.assert_allclose(frequencies(logits, sampling), expected, atol=2 / NUM_DRAWS)


def test_a_row_does_not_depend_on_the_others() -> None:
    sampling = SamplingParams(1.3, top_p=0.9, top_k=20, min_p=0.01)
    logits = mx.array(np.stack([random_logits(seed) for seed in range(8)]))
    draws = mx.array(np.random.default_rng(0).integers(1 << 23, size=8) / (1 << 23))
    together = sample_tokens(logits, sampling, draws).tolist()
    alone = [sample_tokens(logits[i : i + 1], sampling, draws[i : i + 1]).item() for i in range(8)]
    assert together == alone
    assert len(set(alone)) > 3


def test_of_equally_likely_tokens_top_k_allows_k() -> None:
    assert (frequencies(np.zeros(10, np.float32), SamplingParams(1.0, top_k=3)) > 0).sum() == 3


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_an_impossible_token_is_never_sampled(filters: dict[str, Any]) -> None:
    logits = random_logits(1)
    logits[[0, 5, -1]] = -math.inf
    assert not frequencies(logits, SamplingParams(5.0, **filters))[[0, 5, -1]].any()


@pytest.mark.parametrize("penalty", [1.3, 0.8])
@pytest.mark.parametrize("length", [1, 3, REPETITION_CONTEXT_SIZE, REPETITION_CONTEXT_SIZE + 9])
def test_repetition_is_penalized_as_by_mlx_lm(length: int, penalty: float) -> None:
    rng = np.random.default_rng(length)
    prompts = [rng.integers(VOCABULARY_SIZE, size=size).tolist() for size in (length, 5, 60)]
    logits = mx.array(np.stack([random_logits(seed) for seed in range(3)]))
    ours = np.array(penalize_repetition(logits, recent_tokens(prompts), penalty))
    theirs = make_repetition_penalty(penalty)
    expected = [np.array(theirs(mx.array(prompt), mx.array(logits[i : i + 1])))[0] for i, prompt in enumerate(prompts)]
    np.testing.assert_array_equal(ours, np.stack(expected))
    assert (ours != np.array(logits)).any(axis=-1).all()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-0.1, math.nan, math.inf]),
        ("top_p", [0.0, 1.1, math.nan]),
        ("top_k", [-1]),
        ("min_p", [-0.1, 1.1, math.nan]),
        ("repetition_penalty", [0.0, 1e-300, -1.0, 1e300, math.inf, math.nan]),
        ("stop", [("",), "###", ("a", 3)]),
    ],
)
def test_a_parameter_out_of_range_is_named(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=name):
            SamplingParams(**{name: value})


@pytest.mark.parametrize("temperature", [1e-5, 1e300])
def test_extreme_temperatures_sample_a_token(temperature: float) -> None:
    logits = 100 * random_logits(0)
    expected = np.eye(len(logits))[logits.argmax()] if temperature < 1 else 1 / len(logits)
    np.testing.assert_allclose(frequencies(logits, SamplingParams(temperature)), expected, atol=1 / NUM_DRAWS)
    assert SamplingParams(temperature / 10).is_greedy == (temperature < 1)


def test_parameters_are_importable_without_mlx() -> None:
    code = "import sys, mlx_personal.models.sampling; sys.exit('mlx.core' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
