"""Worked examples: what is asked, what an answer becomes, and which parts of a dialogue are rewritten."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.synthesis import STYLES, SynthesisConfig
from mlx_personal.synthesis.config import STYLE_NAMES, StyleName
from mlx_personal.synthesis.languages import load_languages
from mlx_personal.synthesis.units import RewriteMethod, Unit

ENGLISH = load_languages()[0]
MIXED = Dialogue.from_messages(
    [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": "Hello doctor. I have had a cough for 3 days. What could it be?\nred, blue, green, tea",
        },
        {"role": "assistant", "content": "It is a cold. You should rest for a week."},
        {"role": "user", "content": "ok thanks"},
        {"role": "assistant", "content": "Get well soon."},
    ]
)


class WordModel:
    """Stands in for a language model whose tokens are words; keeps the messages of the last prompt."""

    class tokenizer:  # noqa: N801 - an attribute of the model
        bos_token_id = 7

    def __init__(self) -> None:
        self.vocabulary: dict[str, int] = {}
        self.messages: list[dict[str, str]] = []

    def tokenize(self, text: str) -> list[int]:
        return [self.vocabulary.setdefault(word, 10 + len(self.vocabulary)) for word in text.split()]

    def tokenize_prompt(self, messages: list[dict[str, str]]) -> list[int]:
        self.messages = messages
        return [1, 2]

    def text(self, tokens: list[int]) -> str:
        words = {number: word for word, number in self.vocabulary.items()}
        return " ".join(words.get(token, f"<{token}>") for token in tokens)


def method(style: StyleName, **settings: Any) -> tuple[RewriteMethod, WordModel]:
    model = WordModel()
    return STYLES[style].method(cast(LanguageModel, model), SynthesisConfig(**settings)), model


def unit_of(text: str, style: StyleName = "few-shot-guided") -> tuple[RewriteMethod, WordModel, Unit, Dialogue]:
    rewriting, model = method(style)
    dialogue = Dialogue.of(text, "Yes.")
    (unit,) = rewriting.units(dialogue)
    return rewriting, model, unit, dialogue


def test_the_registry_has_every_name_once() -> None:
    assert tuple(STYLES) == STYLE_NAMES


def test_examples_are_chat_turns_of_the_same_kind_after_a_system_turn() -> None:
    rewriting, model, unit, dialogue = unit_of("Name three towns on the Rhine.", "few-shot")
    prompt = rewriting.prompt(dialogue, unit, 0)
    assert [m["role"] for m in model.messages] == ["system"] + ["user", "assistant"] * 4 + ["user"]
    asked, answered = ENGLISH.examples["request"][0]
    assert model.messages[1]["content"] == f"{ENGLISH.bracket_instruction}\n[{asked}]"
    assert model.messages[2]["content"] == f"[{answered}]"
    assert model.messages[-1]["content"] == f"{ENGLISH.bracket_instruction}\n[Name three towns on the Rhine.]"
    assert model.text(prompt.tokens) == "<1> <2> ["
    assert (prompt.constraint, prompt.shared) == (None, ("en", "request"))
    rewriting, model, unit, dialogue = unit_of("Name three towns on the Rhine.", "few-shot-plain")
    assert rewriting.prompt(dialogue, unit, 0).tokens == [1, 2]
    assert model.messages[-1]["content"] == f"{ENGLISH.instruction}\nName three towns on the Rhine."


def test_an_unknown_language_gets_an_example_of_each_language() -> None:
    rewriting, model, unit, dialogue = unit_of("Как испечь ржаной хлеб?")
    prompt = rewriting.prompt(dialogue, unit, 5)
    assert unit.language is None
    assert [m["content"] for m in model.messages if m["role"] == "assistant"] == [
        f"[{language.examples['question'][0][1]}]" for language in load_languages()
    ]
    assert prompt.beginning == "["


def test_a_base_model_continues_a_list_of_texts() -> None:
    rewriting, model, unit, dialogue = unit_of("What is glass made of?", "completion")
    prompt = rewriting.prompt(dialogue, unit, 0)
    text = model.text(prompt.tokens)
    assert prompt.tokens[0] == 7
    assert text.endswith(f"- What is glass made of? = {ENGLISH.openings['question'][0]}")
    assert rewriting.parse(unit, prompt, "what glass is made of?") == "Do you know what glass is made of?"


def test_attempts_have_different_openings_but_never_that_of_the_text() -> None:
    rewriting, _, unit, dialogue = unit_of("Do you know what glass is made of?")
    count = len(ENGLISH.openings["question"])
    beginnings = [rewriting.prompt(dialogue, unit, attempt).beginning for attempt in range(count)]
    assert "[Do you know" not in beginnings
    assert beginnings[:2] == ["[I'd like to know", "["]
    assert beginnings[-1] == beginnings[0]


def test_a_statement_may_begin_with_a_later_part_of_it_and_only_one_of_a_turn_is_introduced() -> None:
    rewriting, _ = method("few-shot-guided")
    dialogue = Dialogue.of(
        "I saw my dog while running in the park, and it barked at me. We then went to town with my sister.", "Oh."
    )
    first, second = rewriting.units(dialogue)
    found = [[rewriting.prompt(dialogue, unit, n).beginning[1:] for n in range(30)] for unit in (first, second)]
    assert [
        sorted({text for text in texts if text and text not in ENGLISH.openings["statement"]}) for texts in found
    ] == [
        ["In the", "It barked", "While running"],
        ["With my"],
    ]
    assert "To be honest," in found[0]
    assert "To be honest," not in found[1]


def test_content_words_get_a_higher_bonus_and_words_of_the_opening_none() -> None:
    rewriting, model, unit, dialogue = unit_of("Glass of Murano: can you make it?")
    constraint = rewriting.prompt(dialogue, unit, 0).constraint
    assert constraint is not None
    bonuses = {model.text([i]): bonus for i, bonus in zip(constraint.token_ids, constraint.bonuses, strict=True)}
    # The opening is `Do you know`; the first word may lose its capital letter.
    words = {"Glass": 3, "glass": 3, "of": 1, "Murano": 3, "can": 1, "make": 1, "it": 1}
    assert bonuses == words
    assert [model.text([i]) for i in constraint.closing_ids] == ["]", "?]", ".]", "!]", ".", "?", "!"]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("what glass is made of?] And more", "Do you know what glass is made of?"),
        (", what glass is made of?", "Do you know, what glass is made of?"),
        ('what glass is made of?"', "Do you know what glass is made of?"),
    ],
)
def test_an_answer_continues_its_given_beginning(answer: str, text: str) -> None:
    rewriting, _, unit, dialogue = unit_of("What is glass made of?")
    assert rewriting.parse(unit, rewriting.prompt(dialogue, unit, 0), answer) == text


def test_an_answer_that_is_empty_or_cut_off_is_refused() -> None:
    rewriting, _, unit, dialogue = unit_of("What is glass made of?")
    for attempt, answer in ((2, ""), (2, "]"), (0, "word " * 30)):
        with pytest.raises(ValueError, match=r"empty|cut off"):
            rewriting.parse(unit, rewriting.prompt(dialogue, unit, attempt), answer)


def test_sentences_are_rewritten_one_by_one_and_put_back_in_their_places() -> None:
    rewriting, _ = method("few-shot-guided")
    units = rewriting.units(MIXED)
    assert [(unit.text, unit.kind, unit.is_fixed) for unit in units] == [
        ("Hello doctor.", "statement", True),
        ("I have had a cough for 3 days.", "statement", False),
        ("What could it be?", "question", False),
        ("red, blue, green, tea", "statement", True),
        ("ok thanks", "statement", True),
    ]
    texts = [
        "Hello doctor.",
        "For 3 days I've had a cough.",
        "Can you say what it is?",
        "red, blue, green, tea",
        "ok thanks",
    ]
    rewrite = rewriting.compose(MIXED, units, texts)
    assert rewrite.user_turns[0] == (
        "Hello doctor. For 3 days I've had a cough. Can you say what it is?\nred, blue, green, tea"
    )
    assert rewrite.messages[0] == MIXED.messages[0]
    assert rewrite.assistant_turns == MIXED.assistant_turns
    assert rewriting.compose(MIXED, units, [unit.text for unit in units]) == MIXED


def test_forms_of_address_and_material_stay_as_they_are() -> None:
    rewriting, _ = method("few-shot-guided")
    dialogue = Dialogue.of(
        "Doctor, my head hurts a lot since May. Sort these words by their length: fig, plum\nAnd this is a word.",
        "Yes.",
    )
    units = rewriting.units(dialogue)
    assert [(unit.text, unit.is_fixed) for unit in units] == [
        ("Doctor,", True),
        ("my head hurts a lot since May.", False),
        ("Sort these words by their length", False),
        ("fig, plum", True),
        ("And this is a word.", True),
    ]
    head, instruction = units[1], units[2]
    free = next(p for n in range(9) if (p := rewriting.prompt(dialogue, head, n)).beginning == "[")
    assert rewriting.parse(head, free, "Since May my head hurts a lot") == ("since May my head hurts a lot.")
    prompts = (rewriting.prompt(dialogue, instruction, attempt) for attempt in range(9))
    free = next(prompt for prompt in prompts if prompt.beginning == "[")
    asked = rewriting.parse(instruction, free, "Can you sort these words by length?")
    assert asked == "Can you sort these words by length"
    texts = ["Doctor,", "since May my head hurts.", asked, "fig, plum", "And this is a word."]
    assert rewriting.compose(dialogue, units, texts).question == (
        "Doctor, since May my head hurts. Can you sort these words by length: fig, plum\nAnd this is a word."
    )


def test_mode_both_rewrites_the_answers_too() -> None:
    rewriting, _ = method("few-shot-guided", mode="both")
    assert [unit.text for unit in rewriting.units(MIXED)][4:6] == ["It is a cold.", "You should rest for a week."]
    rewriting, _ = method("few-shot", mode="both")
    assert [(unit.turn, unit.is_fixed) for unit in rewriting.units(MIXED)] == [
        (1, False),
        (2, False),
        (3, True),
        (4, True),
    ]


def test_a_dialogue_of_short_questions_has_its_longest_rewritten() -> None:
    rewriting, _ = method("few-shot-guided")
    assert [unit.is_fixed for unit in rewriting.units(Dialogue.of("Hi. Define osmosis.", "Water moves."))] == [
        True,
        False,
    ]


def test_a_sentence_over_the_limit_is_not_rewritten() -> None:
    rewriting, _ = method("few-shot-guided", max_tokens=5)
    assert rewriting.units(Dialogue.of("One two three. What are four five six?", "Yes."))
    assert rewriting.units(Dialogue.of("What are the words one two three four?", "Yes.")) == []
