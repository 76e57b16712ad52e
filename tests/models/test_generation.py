"""Batched generation: the same tokens as without batching and caches, on every kind of cache."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map
from mlx_lm.sample_utils import make_repetition_penalty

from mlx_personal.models import generation
from mlx_personal.models.sampling import SamplingParams
from tests.support.cases import quick_cases

END = 2
GREEDY, SAMPLED = SamplingParams(), SamplingParams(temperature=1.0)
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 300,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
# Growing caches, rotating caches whose window is shorter than the prompts, recurrent states, and alternating ones.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama sliding": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "gemma3_text": {"sliding_window": 16, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8},
    "mamba": {
        "state_size": 8,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
    },
    "lfm2": {
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 32,
        "block_ff_dim": 64,
        "block_multiple_of": 8,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [1, 3],
        "layer_types": ["conv", "full_attention"] * 2,
    },
}
_RNG = np.random.default_rng(0)
SHARED_PREFIX = _RNG.integers(10, 290, 21).tolist()
# One more token than the prefix, up to several windows; each prompt three times, not side by side.
PROMPTS = [SHARED_PREFIX + _RNG.integers(10, 290, count).tolist() for count in (1, 3, 7, 40, 2, 7, 13)] * 3
LIMITS = [3 + number % 6 for number in range(len(PROMPTS))]


def make(family: str) -> nn.Module:
    kind = family.split()[0]
    module = importlib.import_module(f"mlx_lm.models.{kind}")
    mx.random.seed(0)
    model = module.Model(module.ModelArgs.from_dict({**SIZES, "model_type": kind, **FAMILIES[family]}))
    # Larger than the usual initial weights, so that the answers depend on the prompts.
    model.update(tree_map(lambda weight: 3 * weight if weight.ndim > 1 else weight, model.parameters()))
    return model.eval()


def generate(
    model: nn.Module,
    prompts: Sequence[list[int]],
    limits: Sequence[int],
    sampling: SamplingParams = GREEDY,
    seed: int = 0,
) -> list[list[int]]:
    tokenizer = SimpleNamespace(decode=lambda tokens: "".join(map(chr, tokens)))
    return generation.generate(model, tokenizer, prompts, limits, sampling, seed, {END})


@pytest.fixture
def limit_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the maximum batch size."""

    def set_limit(max_size: int) -> None:
        monkeypatch.setattr(generation, "_FIRST_BATCH_SIZE", max_size)
        monkeypatch.setattr(generation, "_MAX_BATCH_SIZE", max_size)

    return set_limit


def generate_greedily(model: nn.Module, prompt: list[int], limit: int) -> list[int]:
    """Return the likeliest token after all previous ones, repeatedly, without a cache."""
    tokens = list(prompt)
    for _ in range(limit):
        logits = np.array(model(mx.array([tokens]))[0, -1])
        second, first = np.sort(logits)[-2:]
        assert first - second > 1e-3, "choose other weights: rounding may decide here"
        tokens.append(int(np.argmax(logits)))
        if tokens[-1] == END:
            return tokens[len(prompt) : -1]
    return tokens[len(prompt) :]


@pytest.mark.parametrize("family", quick_cases(FAMILIES, "llama sliding"))
def test_greedy_tokens_are_those_of_each_prompt_alone(family: str, limit_batch: Callable[[int], None]) -> None:
    model = make(family)
    longest = {tuple(prompt): generate_greedily(model, prompt, max(LIMITS)) for prompt in PROMPTS[: len(PROMPTS) // 3]}
    alone = [longest[tuple(prompt)][:limit] for prompt, limit in zip(PROMPTS, LIMITS, strict=True)]
    assert generate(model, PROMPTS, LIMITS) == alone
    limit_batch(4)  # prompts wait, and join sequences that are longer
    assert generate(model, PROMPTS, LIMITS) == alone


def test_prompts_need_not_share_anything(limit_batch: Callable[[int], None]) -> None:
    model, prompts = make("llama sliding"), [[7], [8, 9], [7, 9, 10], [11] * 30]
    limit_batch(2)
    assert generate(model, prompts, [4] * 4) == [generate_greedily(model, prompt, 4) for prompt in prompts]


def test_random_numbers_of_a_prompt_depend_on_no_other(limit_batch: Callable[[int], None]) -> None:
    model = make("llama")
    together = generate(model, PROMPTS, LIMITS, SAMPLED)
    assert len({tuple(tokens) for tokens in together}) > len(set(map(tuple, PROMPTS)))
    limit_batch(3)
    assert generate(model, PROMPTS, LIMITS, SAMPLED) == together
    assert generate(model, PROMPTS[:5], LIMITS[:5], SAMPLED) == together[:5]
    assert generate(model, PROMPTS, LIMITS, SAMPLED, seed=1) != together


def test_tokens_are_sampled_with_their_probabilities() -> None:
    model, count, temperature = make("llama"), 4000, 0.7
    written = generate(model, [SHARED_PREFIX] * count, [1] * count, SamplingParams(temperature))
    # The end token is not returned.
    frequencies = np.bincount([tokens[0] if tokens else END for tokens in written], minlength=300) / count
    probabilities = np.array(mx.softmax(model(mx.array([SHARED_PREFIX]))[0, -1] / temperature))
    assert np.abs(frequencies - probabilities).max() < 4 * np.sqrt(0.25 / count)
    assert np.abs(frequencies - probabilities).sum() < np.sqrt(2 / np.pi * probabilities / count).sum() * 2


class CountingModel(nn.Module):
    """A model that records the shapes of its inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.layers = model.layers
        self.input_shapes: list[tuple[int, ...]] = []

    def make_cache(self) -> Any:
        return self.model.make_cache()

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        self.input_shapes.append(tokens.shape)
        return self.model(tokens, cache=cache)


def test_shared_prefixes_and_repeated_prompts_are_computed_once() -> None:
    model = CountingModel(make("llama"))
    prompts = [[*SHARED_PREFIX, 30, 31, 32]] * 5 + [[*SHARED_PREFIX, 40, 41, 42]] * 5
    generate(model, prompts, [1] * 10)
    prefill = [shape for shape in model.input_shapes if shape[1] > 1]
    decode = [shape for shape in model.input_shapes if shape[1] == 1]
    assert prefill == [(1, len(SHARED_PREFIX)), (2, 2)]  # the last token of each prompt starts its answer
    assert decode[0] == (10, 1)


def test_memory_limits_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model = CountingModel(make("llama"))
    monkeypatch.setattr(generation, "_FIRST_BATCH_SIZE", 2)
    token_bytes = 4 * 2 * 2 * 8 * 4  # layers, keys and values, heads, dimensions, bytes
    longest = max(len(prompt) + limit for prompt, limit in zip(PROMPTS, LIMITS, strict=True))
    monkeypatch.setattr(generation, "_MAX_CACHE_BYTES", 5 * token_bytes * longest)
    bounded = generate(model, PROMPTS, LIMITS)
    assert max(shape[0] for shape in model.input_shapes if shape[1] == 1) == 5
    monkeypatch.undo()
    assert bounded == generate(model, PROMPTS, LIMITS)


@pytest.mark.parametrize(("prompts", "limits"), [([[1], []], [1, 1]), ([[1]], [0])])
def test_an_empty_prompt_or_limit_is_refused(prompts: list[list[int]], limits: list[int]) -> None:
    with pytest.raises(ValueError, match="has no tokens, or a limit is below 1"):
        generate(make("llama"), prompts, limits)


# Penalties, filters and stop strings


def generate_with_mlx_lm_penalty(model: nn.Module, prompt: list[int], limit: int, penalty: float) -> list[int]:
    """Return the likeliest tokens under mlx-lm's repetition penalty, without a cache."""
    tokens, penalize = list(prompt), make_repetition_penalty(penalty)
    for _ in range(limit):
        logits = np.array(penalize(mx.array(tokens), model(mx.array([tokens]))[:, -1]))[0]
        second, first = np.sort(logits)[-2:]
        assert first - second > 1e-3, "choose other weights: rounding may decide here"
        tokens.append(int(np.argmax(logits)))
        if tokens[-1] == END:
            return tokens[len(prompt) : -1]
    return tokens[len(prompt) :]


@pytest.mark.parametrize("max_size", quick_cases([96, 2], 2))
def test_repetition_is_penalized_in_the_prompt_and_in_the_answer(
    max_size: int, limit_batch: Callable[[int], None]
) -> None:
    model, prompts = make("llama"), [[7], *PROMPTS[:4]]
    limits = [24, *LIMITS[:4]]
    limit_batch(max_size)
    penalized = generate(model, prompts, limits, SamplingParams(repetition_penalty=1.5))
    assert penalized == [generate_with_mlx_lm_penalty(model, p, n, 1.5) for p, n in zip(prompts, limits, strict=True)]
    assert penalized != generate(model, prompts, limits)


def test_filtered_samples_of_a_prompt_depend_on_no_other(limit_batch: Callable[[int], None]) -> None:
    model = make("llama")
    sampling = SamplingParams(1.5, top_p=0.95, top_k=60, min_p=0.01, repetition_penalty=1.2)
    prompts, limits = PROMPTS[:8], LIMITS[:8]
    together = generate(model, prompts, limits, sampling)
    limit_batch(3)
    assert generate(model, prompts, limits, sampling) == together
    assert generate(model, prompts[:3], limits[:3], sampling) == together[:3]
    assert generate(model, prompts, limits, SAMPLED) != together


def test_an_answer_ends_with_the_token_that_completes_a_stop_string() -> None:
    model = make("llama")
    unlimited = generate(model, PROMPTS, LIMITS)
    stop = tuple(map(chr, unlimited[0][1:3]))
    expected = []
    for tokens in unlimited:
        end = next((n for n, token in enumerate(tokens, 1) if chr(token) in stop), len(tokens))
        expected.append(tokens[:end])
    assert generate(model, PROMPTS, LIMITS, SamplingParams(stop=stop)) == expected != unlimited
    pair = "".join(map(chr, unlimited[0][:2]))
    assert generate(model, PROMPTS[:1], LIMITS[:1], SamplingParams(stop=(pair,))) == [unlimited[0][:2]]
