"""Prompts and training rows: dates, long dialogues, mentions of control tokens, thoughts, and templates that fail."""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal import Dialogue, LanguageModel, UserError
from mlx_personal.models import generation
from mlx_personal.models.chat_template import template as chat_template
from tests.conftest import TEMPLATE
from tests.models.chat_template.test_format import (
    ALTERNATING,
    CHANNEL,
    CLOSED_BY_ROWS,
    DATED,
    DROPS_ANSWERS,
    FIRST_PART,
    HEADINGS,
    NO_PROMPT,
    PARTS,
    SYSTEM_DROPPED,
    SYSTEM_REFUSED,
    THINKING,
    with_tokenizer,
)

WithTemplate = Callable[[str | None], LanguageModel]
Sequences = list[tuple[list[int], list[bool]]]

TRIMMED = TEMPLATE.replace("m['content']", "m['content'] | trim")
INSTRUCTIONS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[Q] ' + m['content'] + ' [/Q]' }}"
    "{% elif m['role'] == 'system' %}{{ m['content'] + '<|end|>' }}{% else %}{{ ' ' + m['content'] + '<|end|>' }}"
    "{% endif %}{% endfor %}"
)
# Half of the dialogue is dropped, so that no prompt begins the next one.
WINDOW = "{% for m in messages[-5:] %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}<|assistant|>"
FIFTH_TURN = TEMPLATE.replace("<|bos|>' }}", "<|bos|>' }}{% if messages | length > 6 %}{{ 'Long.' }}{% endif %}")
KINDS: dict[str, str | None] = {
    "ordinary": TEMPLATE,
    "trimmed": TRIMMED,
    "dated": DATED,
    "parts": PARTS,
    "first part": FIRST_PART,
    "system refused": SYSTEM_REFUSED,
    "system dropped": SYSTEM_DROPPED,
    "alternating": ALTERNATING,
    "no prompt": NO_PROMPT,
    "thinking": THINKING,
    "closed by rows": CLOSED_BY_ROWS,
    "channel": CHANNEL,
    "headings": HEADINGS,
    "headings after a token": "{{ '<|bos|>' }}" + HEADINGS,
    "drops answers": DROPS_ANSWERS,
    "instructions": INSTRUCTIONS,
    "window": WINDOW,
    "fifth turn": FIFTH_TURN,
    "none": None,
}
QUESTION = [{"role": "user", "content": "Tomatoes?"}]


def long_dialogue(exchanges: int, suffix: str = "", system: bool = True) -> Dialogue:
    turns = [{"role": "system", "content": "Be brief."}] if system else []
    for number in range(exchanges):
        turns.append({"role": "user", "content": f"How deep is {number}?{suffix}"})
        turns.append({"role": "assistant", "content": f"In May.\nNumber {number}, in rich soil.{suffix}"})
    return Dialogue.from_messages(turns)


def rows_of_prompts(model: LanguageModel, dialogue: Dialogue) -> Sequences:
    """Make the rows from the prompt of each answer, which is rendered on its own."""
    rows: Sequences = []
    for context, answer in dialogue.exchanges():
        prompt, answer_ids = model.tokenize_prompt(context), model.chat_template.tokenize_answer(answer)
        continues = bool(rows) and prompt[: len(rows[-1][0])] == rows[-1][0]
        ids, targets = rows.pop() if continues else ([], [])
        rows.append((prompt + answer_ids, targets + [False] * (len(prompt) - len(ids)) + [True] * len(answer_ids)))
    return rows


def text(model: LanguageModel, token_ids: list[int]) -> str:
    return str(model.tokenizer.decode(token_ids))


def target_texts(model: LanguageModel, rows: Sequences) -> list[str]:
    return [text(model, [t for t, is_target in zip(*row, strict=True) if is_target]) for row in rows]


# Long dialogues


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_long_dialogue_are_those_of_its_prompts(
    with_template: WithTemplate, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(chat_template, "_MAX_RENDERED_PROMPTS", 3)
    model = with_template(KINDS[kind])
    for suffix, system in (("", True), ("", False), (" \n", True), (" <|end|> <|user|>", True)):
        dialogue = long_dialogue(6, suffix, system)
        assert model.tokenize_dialogue(dialogue) == rows_of_prompts(model, dialogue)


def _count_and_call(counts: list[int], function: Callable[..., Any], value: Any, *args: Any, **kwargs: Any) -> Any:
    counts.append(len(value))
    return function(value, *args, **kwargs)


def test_a_long_dialogue_takes_time_that_is_linear_in_its_length(
    with_template: WithTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("ordinary", "thinking", "headings", "headings after a token", "none"):
        template = with_template(KINDS[kind]).chat_template
        rendered_turns: list[int] = []
        tokenized_chars: list[int] = []
        for counts, owner, name in (
            (rendered_turns, template._renderer, "render"),
            (tokenized_chars, template._encoder, "_encode"),
        ):
            monkeypatch.setattr(owner, name, functools.partial(_count_and_call, counts, getattr(owner, name)))
        turns, chars = [], []
        for exchanges in (60, 120):
            del rendered_turns[:], tokenized_chars[:]
            template.tokenize_dialogue(long_dialogue(exchanges))
            turns.append(sum(rendered_turns))
            chars.append(sum(tokenized_chars))
        assert turns[0] < 6 * 120
        assert turns[1] < 2.1 * turns[0]
        assert chars[1] < 2.3 * chars[0], kind


def test_a_short_dialogue_renders_each_prompt(with_template: WithTemplate) -> None:
    assert chat_template._MAX_RENDERED_PROMPTS >= 2
    model = with_template(TEMPLATE)
    (row,) = model.tokenize_dialogue(long_dialogue(2))
    assert target_texts(model, [row]) == [
        "In May.\nNumber 0, in rich soil.<|end|>In May.\nNumber 1, in rich soil.<|end|>"
    ]


# The clock


def test_only_a_prompt_with_a_time_depends_on_the_clock(
    with_template: WithTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_template(DATED)
    rows, prompts = [], []
    for zone in ("Etc/GMT+12", "Etc/GMT-14"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        rows.append(model.tokenize_dialogue(long_dialogue(2)))
        prompts.append(model.tokenize_prompt(QUESTION, datetime.datetime.now()))
    monkeypatch.delenv("TZ")
    time.tzset()
    assert rows[0] == rows[1]
    assert text(model, model.tokenize_prompt(QUESTION)).startswith("It is 01 January 2026.")
    assert prompts[0] != prompts[1]
    today = datetime.datetime(2024, 2, 29)
    assert text(model, model.tokenize_prompt(QUESTION, today)).startswith("It is 29 February 2024.")


# Turns


def test_contents_reach_a_template_that_wants_parts(with_template: WithTemplate) -> None:
    for template in (PARTS, FIRST_PART):
        model = with_template(template)
        assert "Tomatoes?" in text(model, model.tokenize_prompt(QUESTION))
        (row,) = model.tokenize_dialogue(long_dialogue(1))
        assert "Be brief." in text(model, row[0])


def test_turns_of_one_role_in_a_row_are_merged_where_roles_alternate(with_template: WithTemplate) -> None:
    twice = [*QUESTION, {"role": "user", "content": "How deep?"}]
    alternating = with_template(ALTERNATING)
    assert (
        text(alternating, alternating.tokenize_prompt(twice))
        == "<|user|>\nTomatoes?\n\nHow deep?<|end|>\n<|assistant|>\n"
    )
    ordinary = with_template(TEMPLATE)
    assert text(ordinary, ordinary.tokenize_prompt(twice)).count("<|user|>") == 2


def test_a_dropped_system_turn_is_merged_into_the_question(with_template: WithTemplate) -> None:
    model = with_template(SYSTEM_DROPPED)
    prompt = model.tokenize_prompt([{"role": "system", "content": "Be brief."}, *QUESTION])
    assert text(model, prompt) == "<|user|>\nBe brief.\n\nTomatoes?<|end|>\n<|assistant|>\n"


def test_a_thought_that_the_prompt_opens_is_closed_before_the_answer(with_template: WithTemplate) -> None:
    for template in (THINKING, CLOSED_BY_ROWS):
        model = with_template(template)
        assert text(model, model.tokenize_prompt(QUESTION)).endswith("<|assistant|>\n<think>\n\n</think>\n\n")
        rows = model.tokenize_dialogue(long_dialogue(2))
        assert all(text(model, ids).count("<think>") == 1 for ids, _ in rows)
        assert target_texts(model, rows)[0].startswith("In May.")


def test_what_a_template_writes_before_answers_is_part_of_the_prompt(with_template: WithTemplate) -> None:
    model = with_template(CHANNEL)
    assert text(model, model.tokenize_prompt(QUESTION)).endswith("<|assistant|>final:")
    (row,) = model.tokenize_dialogue(long_dialogue(2))
    assert target_texts(model, [row])[0].startswith("In May.")


@pytest.mark.parametrize("kind", ["none", "instructions"])
def test_a_space_before_answers_is_in_rows_as_in_later_prompts(with_template: WithTemplate, kind: str) -> None:
    model = with_template(KINDS[kind])
    dialogue = long_dialogue(2)
    (context, answer), (later_context, _) = dialogue.exchanges()
    answer_ids = model.tokenize(f" {answer}")
    assert answer_ids != model.tokenize(answer)
    expected = model.tokenize_prompt(context) + answer_ids
    assert model.tokenize_dialogue(dialogue)[0][0][: len(expected)] == expected
    assert model.tokenize_prompt(later_context)[: len(expected)] == expected


# Mentions of control tokens


_MODELS: dict[str | None, LanguageModel] = {}
MENTIONS = st.lists(
    st.sampled_from(["<|end|>", "<|user|>", "<|bos|>", "<|assistant|>\n", "<|", "|>", "a", " b", "\n"]),
    min_size=1,
    max_size=6,
).map("".join)


@settings(max_examples=20, deadline=None)
@given(question=MENTIONS, answer=MENTIONS)
@pytest.mark.parametrize("template", [TEMPLATE, TRIMMED, PARTS, None])
def test_a_mention_is_text_in_prompts_and_rows(
    tiny_model: LanguageModel, template: str | None, question: str, answer: str
) -> None:
    if template not in _MODELS:
        _MODELS[template] = with_tokenizer(tiny_model, template)
    model = _MODELS[template]
    messages = [{"role": "user", "content": f"Q{question}"}, {"role": "assistant", "content": f"A{answer}."}]
    (row,) = model.tokenize_dialogue(Dialogue.from_messages(messages))
    plain = [{**message, "content": "Text."} for message in messages]
    (expected,) = model.tokenize_dialogue(Dialogue.from_messages(plain))
    control = [token for token in row[0] if token < 6]
    assert control == [token for token in expected[0] if token < 6]
    assert target_texts(model, [row]) == [f"{model.chat_template.format.answer_space}A{answer}.<|end|>"]
    assert text(model, row[0]).count(f"Q{question.rstrip()}") == 1
    assert model.tokenize_prompt(messages[:1]) == row[0][: row[1].index(True)]


# Failures


def test_a_template_that_fails_on_one_conversation_is_one_line(with_template: WithTemplate) -> None:
    model = with_template(TEMPLATE + "{% if messages[0]['content'] == 'zero' %}{{ 1 // 0 }}{% endif %}")
    assert model.chat_template.format.notes() == ()
    with pytest.raises(UserError, match=r"the model's chat template fails \(integer division or modulo by zero\)"):
        model.tokenize_prompt([{"role": "user", "content": "zero"}])
    with pytest.raises(UserError, match="the model's chat template fails"):
        model.tokenize_dialogue(Dialogue.of("zero", "one"))


# Answers


def test_control_tokens_are_no_text_of_answers(with_template: WithTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_template(TEMPLATE)
    answer = [4, *model.tokenize("In May."), 5, *model.tokenize(" Deep.")]
    monkeypatch.setattr(generation, "generate", lambda *_, **__: [answer])
    assert model.generate([[3]], max_tokens=30) == ["In May. Deep."]
    monkeypatch.setattr(generation, "_generate_tokens", lambda *_, **__: ((0, token, False) for token in answer))
    assert "".join(model.stream([3], max_tokens=30)) == "In May. Deep."


def test_a_result_of_a_tool_is_part_of_the_question(with_template: WithTemplate) -> None:
    lm = with_template(TEMPLATE)
    dialogue = Dialogue.from_messages(
        [
            {"role": "user", "content": "how warm"},
            {"role": "tool", "content": "11"},
            {"role": "assistant", "content": "cold"},
        ]
    )
    merged = Dialogue.of("how warm\n\n[Result of a tool]\n11", "cold")
    assert lm.tokenize_dialogue(dialogue) == lm.tokenize_dialogue(merged)
    assert lm.tokenize_prompt(dialogue.exchanges()[0][0]) == lm.tokenize_prompt(merged.exchanges()[0][0])


@pytest.mark.parametrize("exchanges", [2, 12])
def test_an_answer_with_weight_0_is_in_the_row_and_no_target(with_template: WithTemplate, exchanges: int) -> None:
    lm = with_template(TEMPLATE)
    turns = [{"role": role, "content": f"{role} {i}"} for i in range(exchanges) for role in ("user", "assistant")]
    ((all_ids, all_targets),) = lm.tokenize_dialogue(Dialogue.from_messages(turns))
    context: list[dict[str, Any]] = [*({**turn, "weight": 0} if i == 1 else turn for i, turn in enumerate(turns))]
    ((ids, targets),) = lm.tokenize_dialogue(Dialogue.from_messages(context))
    assert ids == all_ids
    first = all_targets.index(True)
    length = all_targets[first:].index(False)
    assert targets == [*all_targets[:first], *[False] * length, *all_targets[first + length :]]
