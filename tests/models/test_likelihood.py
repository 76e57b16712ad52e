"""Log-likelihoods of answers: those of a plain forward pass over prompt and answer, on every kind of cache."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map

from mlx_personal import LanguageModel
from mlx_personal.models import likelihood
from tests.support import random_models
from tests.support.cases import quick_cases

# Growing caches, rotating ones whose window is shorter than the prompts, experts, compressed keys, and recurrence.
FAMILIES = ["llama", "llama-sliding", "gemma3", "qwen3-moe", "gpt2", "deepseek3", "mamba"]
_RNG = np.random.default_rng(0)
SHARED_PREFIX = _RNG.integers(3, random_models.VOCABULARY, 15).tolist()
# The prefix alone, and with up to several windows of more; one prompt twice.
PROMPTS = [SHARED_PREFIX + _RNG.integers(3, random_models.VOCABULARY, count).tolist() for count in (0, 9, 30, 9, 1)]
PROMPTS.append(PROMPTS[1])
# Of different lengths; the second is a prefix of the third.
ANSWERS = [[5, 2], [7, 8, 2], [7, 8, 9, 10, 11, 2], [2], [100] * 14]


def plain_log_likelihood(model: nn.Module, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Process all tokens at once without a cache, in float64 from the logits on."""
    tokens = [*prompt, *answer]
    logits = np.array(model(mx.array([tokens[:-1]]))[0].astype(mx.float32), np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(sum(logs[len(prompt) - 1 + place, token] for place, token in enumerate(answer)))


def make(family: str) -> nn.Module:
    model = random_models.random_model(family).model
    # Larger than the usual initial weights, so that the output depends on the prompt.
    model.update(tree_map(lambda weight: 3 * weight if weight.ndim > 1 else weight, model.parameters()))
    return model.eval()


def reference(model: nn.Module, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> np.ndarray:
    return np.array([[plain_log_likelihood(model, prompt, answer) for answer in answers] for prompt in prompts])


@pytest.mark.parametrize("family", quick_cases(FAMILIES, "llama-sliding", "gpt2"))
def test_likelihoods_are_those_of_a_plain_forward(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(family)
    expected = reference(model, PROMPTS, ANSWERS)
    assert np.ptp(expected, axis=0).max() > 0.1  # the prompts do count
    np.testing.assert_allclose(likelihood.log_likelihoods(model, PROMPTS, ANSWERS), expected, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(likelihood, "_MAX_ANSWER_TOKENS", 45)  # a batch ends amid a prompt's answers
    np.testing.assert_allclose(likelihood.log_likelihoods(model, PROMPTS, ANSWERS), expected, rtol=1e-4, atol=1e-4)


def test_a_model_of_alternating_convolutions_and_attention() -> None:
    module = importlib.import_module("mlx_lm.models.lfm2")
    parameters: dict[str, Any] = {
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_ff_dim": 96,
        "block_multiple_of": 8,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [1],
        "layer_types": ["conv", "full_attention", "conv"],
    }
    model = module.Model(module.ModelArgs.from_dict({**random_models.SIZES, **parameters, "model_type": "lfm2"})).eval()
    likelihoods = likelihood.log_likelihoods(model, PROMPTS, ANSWERS)
    np.testing.assert_allclose(likelihoods, reference(model, PROMPTS, ANSWERS), rtol=1e-4, atol=1e-4)


def test_prompts_need_not_share_anything() -> None:
    model, prompts = make("llama-sliding"), [[7], [8, 9], [7, 9, 10], [11] * 30]
    likelihoods = likelihood.log_likelihoods(model, prompts, ANSWERS)
    np.testing.assert_allclose(likelihoods, reference(model, prompts, ANSWERS), rtol=1e-4, atol=1e-4)


def test_a_lone_prompt_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("llama")
    sizes: list[int] = []
    forward: Callable[..., mx.array] = type(model).__call__

    def counting_forward(self: nn.Module, tokens: mx.array, **rest: Any) -> mx.array:
        sizes.append(tokens.size)
        return forward(self, tokens, **rest)

    monkeypatch.setattr(type(model), "__call__", counting_forward)
    likelihood.log_likelihoods(model, [SHARED_PREFIX * 10], ANSWERS)
    assert sum(sizes) == len(SHARED_PREFIX) * 10 - 1 + len(ANSWERS) * 14


def test_the_probabilities_of_all_answers_of_a_length_add_up_to_one() -> None:
    every = [[token] for token in range(random_models.VOCABULARY)]
    assert np.exp(likelihood.log_likelihoods(make("qwen3"), [SHARED_PREFIX], every)).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("prompts", "answers"), [([[]], [[2]]), ([[5]], [[2], []])])
def test_an_empty_prompt_or_answer_is_refused(prompts: list[list[int]], answers: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="has no tokens"):
        likelihood.log_likelihoods(make("llama"), prompts, answers)


def test_no_prompts_or_no_options_give_an_empty_result(tiny_model: LanguageModel) -> None:
    assert tiny_model.log_likelihoods([], ["a"]).shape == (0, 1)
    assert tiny_model.log_likelihoods([[5]], []).shape == (1, 0)


OPTIONS = ["cook", "cook a soup", "vet", "Спасибо", "cook"]


def test_an_option_includes_its_end_token(tiny_model: LanguageModel) -> None:
    prompt = tiny_model.tokenize_prompt([{"role": "user", "content": "What shall I cook tonight?"}])
    end = tiny_model.tokenizer.convert_tokens_to_ids("<|end|>")
    answers = [[*tiny_model.tokenizer.encode(option, add_special_tokens=False), end] for option in OPTIONS]
    likelihoods = tiny_model.log_likelihoods([prompt], OPTIONS)[0]
    assert likelihoods.dtype == np.float64
    np.testing.assert_allclose(likelihoods, reference(tiny_model.model, [prompt], answers)[0], rtol=1e-4)
    assert likelihoods[0] == pytest.approx(likelihoods[4], rel=1e-6)


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_option_is_refused(tiny_model: LanguageModel, empty: str) -> None:
    with pytest.raises(ValueError, match="empty option"):
        tiny_model.log_likelihoods([[5]], ["vet", empty])


def test_a_prompt_that_is_too_long_loses_its_oldest_tokens(tiny_model: LanguageModel) -> None:
    long = np.random.default_rng(1).integers(6, 300, 400).tolist()
    longest = max(len(tiny_model.tokenize(option)) for option in OPTIONS) + 1
    truncated = long[-(tiny_model.context_length - longest) :]
    likelihoods = tiny_model.log_likelihoods([long], OPTIONS)
    np.testing.assert_array_equal(likelihoods, tiny_model.log_likelihoods([truncated], OPTIONS))
    assert np.abs(likelihoods - tiny_model.log_likelihoods([truncated[100:]], OPTIONS)).max() > 1e-4
