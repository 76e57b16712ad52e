"""Conversations: settings of the profile, the model and the call, stopped answers, and the system prompt."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.nn as nn
import pytest

from mlx_personal import Dialogue, LanguageModel, Message
from mlx_personal.chat import ChatConfig, Conversation
from mlx_personal.memory import Memory, MemoryConfig, MemoryEntry
from mlx_personal.models.sampling import SamplingParams


class ScriptedModel:
    """A model that gives prepared answers in pieces of three characters, and records what it is asked."""

    path: Path | None = None
    adapter_folder: Path | None = None
    adapter_state = 0
    context_length = 40
    model = nn.Module()

    def __init__(self, *answers: str) -> None:
        self.answers = iter(answers)
        self.prompts: list[list[str]] = []
        self.times: list[datetime.datetime] = []
        self.calls: list[dict[str, Any]] = []
        self.lengths: list[int] = []

    def tokenize_prompt(self, messages: list[dict[str, str]], now: datetime.datetime | None = None) -> list[int]:
        if now is not None:
            self.times.append(now)
        self.prompts.append([f"{m['role']}: {m['content']}" for m in messages])
        return [0] * sum(len(m["content"].split()) for m in messages)

    def stream(self, prompt: list[int], **settings: Any) -> Iterator[str]:
        self.calls.append(settings)
        self.lengths.append(len(prompt))
        answer = next(self.answers)
        yield from (answer[i : i + 3] for i in range(0, len(answer), 3))


def converse(model: ScriptedModel, *questions: str, seed: int | None = None, **settings: Any) -> Conversation:
    conversation = Conversation(model, ChatConfig(**settings), seed)  # type: ignore[arg-type]
    for question in questions:
        list(conversation.ask(question))
    return conversation


def test_the_system_prompt_begins_every_prompt_and_the_dialogue() -> None:
    model = ScriptedModel("In May.", "A hand.")
    conversation = converse(model, "Tomatoes?", "How deep?", system="Be brief.")
    assert model.prompts == [
        ["system: Be brief.", "user: Tomatoes?"],
        ["system: Be brief.", "user: Tomatoes?", "assistant: In May.", "user: How deep?"],
    ]
    assert conversation.dialogue is not None
    assert [m.role for m in conversation.dialogue.messages] == ["system", *("user", "assistant") * 2]


def test_a_chat_template_is_given_the_time_of_the_question() -> None:
    model, before = ScriptedModel("In May."), datetime.datetime.now()
    converse(model, "Tomatoes?")
    assert [before <= time <= datetime.datetime.now() for time in model.times] == [True]


def test_a_full_context_loses_the_oldest_exchange_but_not_the_system_prompt() -> None:
    model = ScriptedModel("one " * 10, "two " * 10)
    converse(model, "a " * 10, "b " * 10, system="Be brief.", max_tokens=10)
    assert model.prompts[-1] == ["system: Be brief.", f"user: {'b ' * 10}"]


def test_as_many_exchanges_are_kept_as_fit_found_with_few_prompts() -> None:
    model = ScriptedModel(*["one two"] * 30)
    conversation = converse(model, *["a b c"] * 29, max_tokens=10)
    del model.prompts[:]
    list(conversation.ask("a b c"))
    # 40 tokens, of which 10 are the answer's, hold the question and five exchanges of five words each.
    assert model.prompts.count(["user: a b c", "assistant: one two"] * 5 + ["user: a b c"]) == 1
    assert max(len(prompt) for prompt in model.prompts if len(prompt) < 12) == 11
    assert len(model.prompts) < 8


EXAMPLE = ["user: Tomato seeds?", "assistant: In May."]


def remember(**settings: Any) -> Memory:
    """Return a memory that finds one dialogue for questions about tomatoes."""
    entries = [MemoryEntry(7, Dialogue.of("Tomato seeds?", "In May.")), MemoryEntry(8, Dialogue.of("Cat?", "Vet."))]
    # A model of its own counts the tokens, so that the prompts of the conversation are those that are answered.
    return Memory(entries, MemoryConfig(examples=1, retrieval="bm25", **settings), ScriptedModel())  # type: ignore[arg-type]


def test_examples_of_the_first_question_stay_before_it_and_are_not_recorded() -> None:
    model = ScriptedModel("Soon.", "Ask the vet.")
    conversation = Conversation(model, ChatConfig(system="Be brief.", max_tokens=5), memory=remember())  # type: ignore[arg-type]
    assert (conversation.examples, conversation.max_examples) == (None, 1)
    recorded: list[Dialogue] = []
    conversation.record = recorded.append
    for question in ("Tomato plants?", "Cat?"):
        list(conversation.ask(question))
    first = ["system: Be brief.", *EXAMPLE, "user: Tomato plants?"]
    assert model.prompts == [first, [*first, "assistant: Soon.", "user: Cat?"]]
    assert conversation.examples == conversation.prompt_examples
    assert [(example.entry.id, example.similarity > 0.1) for example in conversation.prompt_examples] == [(7, True)]
    contents = ["Be brief.", "Tomato plants?", "Soon.", "Cat?", "Ask the vet."]
    assert [[m.content for m in dialogue.messages] for dialogue in recorded] == [contents[:3], contents]


def test_a_first_question_without_an_answer_is_forgotten_with_its_examples() -> None:
    model = ScriptedModel("", "Soon.")
    conversation = Conversation(model, ChatConfig(max_tokens=5), memory=remember())  # type: ignore[arg-type]
    list(conversation.ask("Cat?"))
    list(conversation.ask("Tomato plants?"))
    assert model.prompts == [["user: Cat?", "assistant: Vet.", "user: Cat?"], [*EXAMPLE, "user: Tomato plants?"]]


def test_a_full_context_loses_the_examples_and_then_the_oldest_exchange() -> None:
    model = ScriptedModel("one " * 10, "two", "three")
    conversation = Conversation(model, ChatConfig(max_tokens=10), memory=remember())  # type: ignore[arg-type]
    list(conversation.ask("Tomato plants?"))
    assert conversation.prompt_examples
    list(conversation.ask("b " * 16))  # with the first exchange 28 tokens of 30, with the example 32 of 20
    assert model.prompts[-1] == ["user: Tomato plants?", f"assistant: {('one ' * 10).strip()}", f"user: {'b ' * 16}"]
    assert conversation.examples and not conversation.prompt_examples
    list(conversation.ask("c " * 13))
    assert [f"user: {'b ' * 16}", "assistant: two", f"user: {'c ' * 13}"] in model.prompts
    assert model.lengths == [6, 28, 30]


def test_nothing_near_leaves_the_prompt_as_it_is() -> None:
    for memory in (None, remember(), remember(min_bm25=1.0)):
        model = ScriptedModel("No.")
        conversation = Conversation(model, ChatConfig(max_tokens=5), memory=memory)  # type: ignore[arg-type]
        list(conversation.ask("Zeppelin?" if memory is None or memory.config.min_bm25 < 1 else "Tomato plants?"))
        assert model.prompts == [[model.prompts[0][0]]]
        assert conversation.prompt_examples == () and conversation.max_examples == (memory is not None)


def test_a_conversation_has_the_prompts_with_which_its_dialogue_is_evaluated(tiny_model: LanguageModel) -> None:
    entries = [MemoryEntry(1, Dialogue.of("Tomatoes?", "In May.")), MemoryEntry(2, Dialogue.of("Soup?", "Simmer."))]
    memory = Memory(entries, MemoryConfig(examples=2, retrieval="bm25", min_bm25=0.0), tiny_model)
    conversation = Conversation(tiny_model, ChatConfig(system="Brief.", max_tokens=4), seed=0, memory=memory)
    prompts: list[list[int]] = []

    def tokens(question: str) -> list[int]:
        return conversation._prompt(Message("user", question))[0]

    for question in ("Tomatoes?", "Soup?"):
        prompts.append(tokens(question))
        conversation._messages += [Message("user", question), Message("assistant", "Yes.")]
    dialogue = conversation.dialogue
    assert dialogue is not None and len(conversation.prompt_examples) == 2
    evaluated = memory.with_examples(dialogue).exchanges()
    assert prompts == [tiny_model.tokenize_prompt(context) for context, _ in evaluated]
    assert prompts[1][: len(prompts[0])] == prompts[0]


def test_a_long_conversation_has_the_examples_with_which_its_dialogue_is_evaluated(tiny_model: LanguageModel) -> None:
    entries = [MemoryEntry(1, Dialogue.of("Tomatoes?", "In May.")), MemoryEntry(2, Dialogue.of("Soup?", "Simmer."))]
    memory = Memory(entries, MemoryConfig(examples=2, retrieval="bm25", min_bm25=0.0), tiny_model)
    conversation = Conversation(tiny_model, ChatConfig(max_tokens=4), seed=0, memory=memory)
    had_examples = []
    for _ in range(8):
        prompt, _ = conversation._prompt(Message("user", "Tomatoes?"))
        had_examples.append(bool(conversation.prompt_examples))
        conversation._messages += [Message("user", "Tomatoes?"), Message("assistant", "Yes, in May.")]
        assert conversation.dialogue is not None
        context, _ = memory.with_examples(conversation.dialogue).exchanges()[-1]
        assert prompt == tiny_model.tokenize_prompt(context)
    assert had_examples == sorted(had_examples, reverse=True) and len(set(had_examples)) == 2
    assert len(prompt) + 4 < tiny_model.context_length, "it is not the whole context that is full"


def test_an_answer_ends_where_it_is_stopped_and_stays_in_the_conversation() -> None:
    model = ScriptedModel("one two three", "<think>never mind")
    conversation = converse(model)
    shown: list[str] = []
    for piece in conversation.ask("Count.", lambda: len(shown) == 2):
        shown.append(piece)
    assert "".join(shown) == "one tw"
    assert conversation.dialogue == Dialogue.of("Count.", "one tw")
    for piece in conversation.ask("Think.", lambda: "".join(shown).endswith("nev")):
        shown.append(piece)
    assert conversation.dialogue == Dialogue.of("Count.", "one tw")


def test_each_complete_answer_is_reported_with_the_conversation_so_far() -> None:
    conversation = converse(ScriptedModel("yes", "", "no"))
    reported: list[Dialogue] = []
    conversation.record = reported.append
    for question in ("A?", "B?", "C?"):
        list(conversation.ask(question))
    assert [dialogue.user_turns for dialogue in reported] == [("A?",), ("A?", "C?")]
    assert reported[-1] == conversation.dialogue


def test_a_seed_gives_each_question_its_own_fixed_seed() -> None:
    first, second, random = ScriptedModel("a", "a"), ScriptedModel("a", "a"), ScriptedModel("a", "a")
    for model, seed in ((first, 7), (second, 7), (random, None)):
        converse(model, "A?", "A?", seed=seed)
    assert [call["seed"] for call in first.calls] == [call["seed"] for call in second.calls]
    assert len({call["seed"] for call in (*first.calls, *random.calls)}) == 4


def test_options_override_the_model_which_overrides_the_defaults(tmp_path: Path) -> None:
    recommended = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_new_tokens": 99}
    (tmp_path / "generation_config.json").write_text(json.dumps(recommended))
    model = ScriptedModel()
    conversation = converse(model)
    assert (conversation.sampling, conversation.max_tokens, conversation.recommended) == (SamplingParams(), 512, ())
    model.path = tmp_path
    conversation = converse(model)
    assert (conversation.sampling, conversation.max_tokens) == (SamplingParams(0.6, 0.9), 99)
    assert conversation.recommended == ("temperature", "top_p")
    conversation = converse(model, temperature=0.2, top_p=1.0, max_tokens=7, stop=("\n",))
    assert (conversation.sampling, conversation.max_tokens) == (SamplingParams(0.2, stop=("\n",)), 7)
    assert (conversation.recommended, conversation.notices) == ((), [])
    conversation = converse(model, temperature=0.0, min_p=0.1)
    assert conversation.sampling == SamplingParams(0.0, 0.9, min_p=0.1)
    assert (conversation.recommended, conversation.notices) == ((), ["not used at temperature 0: min_p"])


def test_an_invalid_file_of_the_model_is_a_notice(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    model = ScriptedModel()
    model.path = tmp_path
    assert converse(model).notices == ["generation_config.json of the model is not a JSON object"]


@pytest.mark.parametrize(
    "settings", [{"temperature": -1.0}, {"max_tokens": 0}, {"stop": ("",)}, {"system": " "}, {"top_k": -1}]
)
def test_a_setting_out_of_range_is_an_error(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}"):
        ChatConfig(**settings)


def test_a_real_model_answers_with_the_sampling_of_its_folder(
    tiny_model: LanguageModel, tiny_model_folder: Path, tmp_path: Path
) -> None:
    def answers(lm: LanguageModel) -> set[str]:
        return {
            "".join(Conversation(lm, ChatConfig(max_tokens=6), seed).ask("What shall I cook?")) for seed in range(6)
        }

    assert len(answers(tiny_model)) == 1
    shutil.copytree(tiny_model_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text('{"do_sample": true}')
    sampled = LanguageModel(tiny_model.model, tiny_model.tokenizer, tmp_path)
    assert len(answers(sampled)) > 3
