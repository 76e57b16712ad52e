"""How likely the answers are to a prompt: those of a plain forward over both, on every kind of cache."""

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

# Caches that grow, and those that rotate in a window shorter than the prompts; experts; compressed keys; recurrence.
FAMILIES = ["llama", "llama-sliding", "gemma3", "qwen3-moe", "gpt2", "deepseek3", "mamba"]
_RNG = np.random.default_rng(0)
COMMON = _RNG.integers(3, random_models.VOCABULARY, 15).tolist()
# What they share alone, beside several windows of more; one of them twice.
PROMPTS = [COMMON + _RNG.integers(3, random_models.VOCABULARY, count).tolist() for count in (0, 9, 30, 9, 1)]
PROMPTS.append(PROMPTS[1])
# Of different lengths; the second begins the third.
ANSWERS = [[5, 2], [7, 8, 2], [7, 8, 9, 10, 11, 2], [2], [100] * 14]


def plain(model: nn.Module, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """All tokens at once without any cache, in float64 from the logits on."""
    tokens = [*prompt, *answer]
    logits = np.array(model(mx.array([tokens[:-1]]))[0].astype(mx.float32), np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(sum(logs[len(prompt) - 1 + place, token] for place, token in enumerate(answer)))


def make(family: str) -> nn.Module:
    model = random_models.random_model(family).model
    # Larger than at birth, so that it depends on the prompt.
    model.update(tree_map(lambda weight: 3 * weight if weight.ndim > 1 else weight, model.parameters()))
    return model.eval()


def reference(model: nn.Module, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> np.ndarray:
    return np.array([[plain(model, prompt, answer) for answer in answers] for prompt in prompts])


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_are_those_of_a_plain_forward(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(family)
    expected = reference(model, PROMPTS, ANSWERS)
    assert np.ptp(expected, axis=0).max() > 0.1  # the prompts do count
    np.testing.assert_allclose(likelihood.log_likelihoods(model, PROMPTS, ANSWERS), expected, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(likelihood, "_MAX_ANSWER_TOKENS", 45)  # a batch ends amid a prompt's answers
    np.testing.assert_allclose(likelihood.log_likelihoods(model, PROMPTS, ANSWERS), expected, rtol=1e-4, atol=1e-4)


def test_a_model_of_convolutions_and_attention_in_turn() -> None:
    module = importlib.import_module("mlx_lm.models.lfm2")
    own: dict[str, Any] = {
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
    model = module.Model(module.ModelArgs.from_dict({**random_models.SIZES, **own, "model_type": "lfm2"})).eval()
    found = likelihood.log_likelihoods(model, PROMPTS, ANSWERS)
    np.testing.assert_allclose(found, reference(model, PROMPTS, ANSWERS), rtol=1e-4, atol=1e-4)


def test_prompts_need_not_share_anything() -> None:
    model, prompts = make("llama-sliding"), [[7], [8, 9], [7, 9, 10], [11] * 30]
    found = likelihood.log_likelihoods(model, prompts, ANSWERS)
    np.testing.assert_allclose(found, reference(model, prompts, ANSWERS), rtol=1e-4, atol=1e-4)


def test_a_lone_prompt_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = make("llama"), []
    forward: Callable[..., mx.array] = type(model).__call__

    def counting(self: nn.Module, tokens: mx.array, **rest: Any) -> mx.array:
        seen.append(tokens.size)
        return forward(self, tokens, **rest)

    monkeypatch.setattr(type(model), "__call__", counting)
    likelihood.log_likelihoods(model, [COMMON * 10], ANSWERS)
    assert sum(seen) == len(COMMON) * 10 - 1 + len(ANSWERS) * 14


def test_all_answers_of_a_length_together_are_certain() -> None:
    every = [[token] for token in range(random_models.VOCABULARY)]
    assert np.exp(likelihood.log_likelihoods(make("qwen3"), [COMMON], every)).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("prompts", "answers"), [([[]], [[2]]), ([[5]], [[2], []])])
def test_nothing_is_neither_a_prompt_nor_an_answer(prompts: list[list[int]], answers: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="without tokens"):
        likelihood.log_likelihoods(make("llama"), prompts, answers)


def test_no_prompts_and_no_options_give_no_numbers(tiny_model: LanguageModel) -> None:
    assert tiny_model.log_likelihoods([], ["a"]).shape == (0, 1)
    assert tiny_model.log_likelihoods([[5]], []).shape == (1, 0)


OPTIONS = ["cook", "cook a soup", "vet", "Спасибо", "cook"]


def test_an_option_is_its_tokens_and_the_token_that_ends_an_answer(tiny_model: LanguageModel) -> None:
    prompt = tiny_model.tokenize_prompt([{"role": "user", "content": "What shall I cook tonight?"}])
    end = tiny_model.tokenizer.convert_tokens_to_ids("<|end|>")
    answers = [[*tiny_model.tokenizer.encode(option, add_special_tokens=False), end] for option in OPTIONS]
    found = tiny_model.log_likelihoods([prompt], OPTIONS)[0]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, reference(tiny_model.model, [prompt], answers)[0], rtol=1e-4)
    assert found[0] == pytest.approx(found[4], rel=1e-6)


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_option_is_refused(tiny_model: LanguageModel, empty: str) -> None:
    with pytest.raises(ValueError, match="empty option"):
        tiny_model.log_likelihoods([[5]], ["vet", empty])


def test_a_prompt_that_leaves_no_room_loses_its_oldest_tokens(tiny_model: LanguageModel) -> None:
    long = np.random.default_rng(1).integers(6, 300, 400).tolist()
    longest = max(len(tiny_model.tokenize(option)) for option in OPTIONS) + 1
    kept = long[-(tiny_model.context_length - longest) :]
    found = tiny_model.log_likelihoods([long], OPTIONS)
    np.testing.assert_array_equal(found, tiny_model.log_likelihoods([kept], OPTIONS))
    assert np.abs(found - tiny_model.log_likelihoods([kept[100:]], OPTIONS)).max() > 1e-4
