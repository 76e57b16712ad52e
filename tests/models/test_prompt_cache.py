"""The cache of a conversation's prompts: the same answers, and only what is new is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_personal import LanguageModel
from mlx_personal.chat import ChatConfig, Conversation
from mlx_personal.dialogue import Dialogue, strip_thoughts
from mlx_personal.errors import UserError
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.trainer import write_adapter
from mlx_personal.models import generation, prompt_cache
from mlx_personal.models.prompt_cache import PromptCache
from mlx_personal.models.sampling import SamplingParams
from tests.support.cases import slow_cases
from tests.support.random_models import VOCABULARY, random_model, with_adapter


@pytest.fixture
def prefilled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tokens of each prompt that are computed."""
    counts: list[int] = []
    fill_caches = generation._fill_caches

    def count(model: Any, tokens: mx.array, caches: list[Any]) -> None:
        counts.append(tokens.shape[1])
        fill_caches(model, tokens, caches)

    monkeypatch.setattr(generation, "_fill_caches", count)
    return counts


def answer(lm: LanguageModel, prompt: list[int], cache: PromptCache | None) -> list[int]:
    tokens = generation._generate_tokens(lm.model, [prompt], [6], SamplingParams(), 0, [], prompt_cache=cache)
    return [token for _, token, _ in tokens if token is not None]


def prompts() -> list[list[int]]:
    """Return prompts that continue, repeat, shorten and replace the one before."""
    rng = np.random.default_rng(0)
    first, second, other = (rng.integers(3, VOCABULARY, length).tolist() for length in (30, 45, 12))
    return [first, first + second, first + second, first + second[:9] + other, first, other]


@pytest.mark.parametrize("family", ["llama", *slow_cases("mamba", "gemma3")])
def test_answers_are_those_without_a_cache(family: str, prefilled: list[int]) -> None:
    lm, cache = random_model(family), PromptCache()
    expected = [answer(lm, prompt, None) for prompt in prompts()]
    assert prefilled == [29, 74, 74, 50, 29, 11]
    del prefilled[:]
    assert [answer(lm, prompt, cache) for prompt in prompts()] == expected
    # Recurrent states, and windows of 12 tokens that are full, can be continued and not shortened.
    continued = [29, 45, 0]
    assert prefilled == [*continued, *([11, 0, 11] if family == "llama" else [50, 29, 11])]


def test_a_cache_that_is_too_large_is_not_kept(prefilled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_cache, "_MAX_BYTES", 1000)
    lm, cache = random_model("llama"), PromptCache()
    for prompt in prompts()[:2]:
        answer(lm, prompt, cache)
    assert prefilled == [29, 74]


def test_a_conversation_computes_only_what_is_new(tiny_model: LanguageModel, prefilled: list[int]) -> None:
    def ask(conversation: Conversation) -> list[str]:
        return ["".join(conversation.ask(question)) for question in ("Soup?", "Beans?", "Tea?")]

    config = ChatConfig(max_tokens=6, system="Answer like a cook who has very little time.")
    answers = ask(Conversation(tiny_model, config, seed=0))
    with_cache = prefilled[:]
    del prefilled[:]
    conversation = Conversation(tiny_model, config, seed=0)
    texts = []
    for question in ("Soup?", "Beans?", "Tea?"):
        conversation._prompt_cache = PromptCache()
        texts.append("".join(conversation.ask(question)))
    assert answers == texts
    # Each prompt is all but one token of the one before, that token, and what is new.
    assert with_cache == [prefilled[0], prefilled[1] - prefilled[0], prefilled[2] - prefilled[1]]


@pytest.fixture
def adapter_folders(tiny_model: LanguageModel, tmp_path: Path) -> list[Path]:
    """The folders of two adapters that give other answers than the base model and each other."""
    folders = []
    for num_layers in (1, 2):
        with_adapter(tiny_model, num_layers)
        folders.append(tmp_path / str(num_layers))
        folders[-1].mkdir()
        write_adapter(tiny_model.model, folders[-1], LoRAConfig(rank=4, scale=2.0, num_layers=num_layers), {})
    tiny_model.detach_adapter()
    return folders


@pytest.mark.parametrize(
    ("own", "between"),
    [
        (None, "other adapter"),
        (0, "other adapter"),
        (0, "new adapter"),
        *slow_cases((None, "new adapter"), (0, "no adapter"), (0, "error while switched off")),
    ],
)
def test_a_conversation_goes_on_with_its_own_adapter_whatever_the_model_is_used_for_in_between(
    own: int | None, between: str, tiny_model: LanguageModel, adapter_folders: list[Path]
) -> None:
    def begin() -> Conversation:
        tiny_model.detach_adapter()
        if own is not None:
            tiny_model.attach_adapter(adapter_folders[own])
        return Conversation(tiny_model, config, seed=0)

    def use_model() -> None:
        if between == "other adapter":
            tiny_model.attach_adapter(adapter_folders[1])
        elif between == "new adapter":
            with_adapter(tiny_model)
        elif between == "no adapter":
            tiny_model.detach_adapter()
        elif between == "error while switched off":
            with pytest.raises(ZeroDivisionError), tiny_model.disable_adapter():
                raise ZeroDivisionError

    config = ChatConfig(max_tokens=8, system="Answer like a cook who has very little time.")
    conversation, asked, answers = begin(), ["Soup?", "Beans?", "Tea?"], []
    for question in asked:
        answers.append("".join(conversation.ask(question)))
        use_model()
    for number, question in enumerate(asked):
        fresh = begin()
        history = zip(asked[:number], answers[:number], strict=True)
        fresh._messages = [m for q, a in history for m in Dialogue.of(q, strip_thoughts(a).strip()).messages]
        assert "".join(fresh.ask(question)) == answers[number]
    tiny_model.detach_adapter()


def test_only_what_another_adapter_computed_is_computed_again(
    tiny_model: LanguageModel, adapter_folders: list[Path], prefilled: list[int]
) -> None:
    cache, prompt = PromptCache(), tiny_model.tokenize_prompt([{"role": "user", "content": "Soup?"}])

    def computed() -> int:
        del prefilled[:]
        list(tiny_model.stream(prompt, max_tokens=2, prompt_cache=cache))
        return prefilled[0]

    everything = len(prompt) - 1
    assert [computed(), computed()] == [everything, 0]
    tiny_model.attach_adapter(adapter_folders[0])
    assert [computed(), computed()] == [everything, 0]
    with tiny_model.disable_adapter():
        pass
    assert computed() == 0
    with tiny_model.disable_adapter():
        assert computed() == everything
    tiny_model.detach_adapter()
    assert computed() == everything


def test_an_adapter_that_was_never_stored_cannot_be_attached_again(tiny_model: LanguageModel) -> None:
    with_adapter(tiny_model)
    conversation = Conversation(tiny_model, ChatConfig(max_tokens=2), seed=0)
    list(conversation.ask("Soup?"))
    tiny_model.detach_adapter()
    with pytest.raises(UserError, match="the adapter of this conversation was detached"):
        list(conversation.ask("Beans?"))
