"""Turns that thank for an answer or correct it: precision and recall on hand-written turns, and each rule alone."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.dialogue import words
from mlx_personal.importers.reactions import reaction_of

ANSWER = "Simmer the lentils for half an hour."
LANGUAGES = ("en", "de", "es", "fr", "zh")
TABLE: dict[str, dict[str, list[str]]] = json.loads(
    Path(__file__).with_name("reaction_turns.json").read_text(encoding="utf-8")
)
EXPECTED = {"thanks": "approval", "praise": "approval", "corrections": "correction", "objections": "correction"}


def rule_file(language: str) -> dict[str, Any]:
    rules: dict[str, Any] = json.loads(
        (files("mlx_personal.importers") / f"verdict_rules/{language}.json").read_text(encoding="utf-8")
    )
    return rules


def found(text: str, answer: str = ANSWER) -> str:
    return reaction_of(text, answer) or "neither"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("reaction", ["approval", "correction"])
def test_precision_and_recall_on_hand_written_turns(language: str, reaction: str) -> None:
    pairs = [(expected, found(text)) for expected, turns in TABLE.items() for text in turns[language]]
    hits = pairs.count((reaction, reaction))
    precision = hits / sum(got == reaction for _, got in pairs)
    recall = hits / sum(expected == reaction for expected, _ in pairs)
    assert precision >= 0.97
    assert recall >= 0.93


def test_the_table_of_turns_is_large_and_has_none_twice() -> None:
    texts = [text for turns in TABLE.values() for language in LANGUAGES for text in turns[language]]
    assert len(texts) == len(set(texts)) > 400


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_phrase_alone_means_what_its_list_says(language: str) -> None:
    rules = rule_file(language)
    wrong = [
        (kind, phrase, found(phrase))
        for kind, expected in {**EXPECTED, "neither": "neither", "fillers": "neither", "denials": "neither"}.items()
        for phrase in rules[kind]
        if found(phrase) != expected
    ]
    assert not wrong


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_phrase_is_in_one_list_of_its_language_only(language: str) -> None:
    lists = [phrases for phrases in rule_file(language).values() if isinstance(phrases, list)]
    phrases = [tuple(words(phrase)) or phrase for phrases in lists for phrase in phrases]
    assert len(phrases) == len(set(phrases))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thanks, but that is wrong.", "correction"),
        ("Thanks, but I have another question.", "neither"),
        ("Thanks. That is wrong.", "correction"),
        ("Thanks, what is wrong with the other one?", "neither"),
        ("Thanks. Now remove the title.", "neither"),
        ("That is wrong, thanks.", "correction"),
        ("THANKS!!!", "approval"),
        ("that\u2019s wrong", "correction"),
        ("cest faux", "correction"),
        ("C\u0327a ne marche pas", "correction"),
        ("ca ne marche pas", "correction"),
        ("  \n thanks", "approval"),
        ("", "neither"),
        ("...", "neither"),
        ("> thanks", "neither"),
        ('"Thanks," she said.', "neither"),
    ],
)
def test_what_follows_and_how_it_is_written(text: str, expected: str) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Wrong side of the road, is that a fine?",
        "Incorrect PIN entered at the cash machine, what now?",
        "Falsch abgebogen, wie komme ich zurück?",
        "Mal tiempo en Madrid",
        "Faux plafond ou plafond tendu ?",
        "Mauvais payeur, que faire ?",
        "Gracias por visitarnos en otoño - traducir al inglés",
        "Thanks for shopping with us - translate into Dutch",
        "Merci pour ce dîner - traduis en italien",
    ],
)
def test_a_word_of_the_rules_at_the_beginning_of_something_else_is_no_verdict(text: str) -> None:
    assert found(text) == "neither"


@pytest.mark.parametrize("text", ["Wrong.", "wrong again", "Falsch, der Rhein", "faux !", "👎 the rice is missing"])
def test_a_correction_of_one_word_is_a_clause_of_its_own(text: str) -> None:
    assert found(text) == "correction"


def test_a_long_turn_is_neither() -> None:
    sentence = " The cat sat on the mat."
    assert found("Thanks." + sentence * 4) == "approval"
    assert found("Thanks." + sentence * 6) == "neither"
    assert found("That is wrong." + sentence * 9) == "correction"
    assert found("That is wrong." + sentence * 10) == "neither"
    assert found("Thanks" + "!" * 3_000) == "neither"


@pytest.mark.parametrize(
    "question", ["Shall I add garlic?", "Which of them?\n", "要加大蒜吗\uff1f", "Do you want more? I can go on."]
)
def test_a_reply_to_a_question_is_no_verdict(question: str) -> None:
    answer = f"{ANSWER}\n\n{question}"
    assert found("no, without it", ANSWER) == found("I meant the red ones", ANSWER) == "correction"
    assert found("no, without it", answer) == found("I meant the red ones", answer) == "neither"
    assert found("Great. We had fun.", answer) == "neither"
    assert found("No, that's wrong.", answer) == "correction"
    assert found("Great, thanks!", answer) == found("great", answer) == "approval"


def test_a_question_long_before_the_end_of_the_answer_does_not_matter() -> None:
    assert found("no, shorter", f"Why lentils? {ANSWER * 10}") == "correction"
    assert found("no, shorter", f"Why lentils?\n{ANSWER}") == "correction"


@given(st.text(max_size=300), st.text(max_size=100))
def test_any_text_is_one_of_the_three(text: str, answer: str) -> None:
    assert found(text, answer) in TABLE


@given(st.lists(st.sampled_from(["no", "thanks", "but", "that is wrong", "great", ",", ".", "?", "谢谢", "不", "x"])))
def test_any_sequence_of_phrases_is_one_of_the_three(parts: list[str]) -> None:
    assert found(" ".join(parts)) in TABLE
