"""Languages: their files, detection of language and kind, and sentences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.dialogue import words
from mlx_personal.synthesis.checks import Rewording, find_fault
from mlx_personal.synthesis.languages import KINDS, Language, detect_language, kind_of, load_languages
from mlx_personal.synthesis.sentences import can_be_reworded, split_sentences

LANGUAGES = load_languages()


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.code)
def test_the_worked_examples_are_in_their_language_and_of_their_kind(language: Language) -> None:
    for kind in KINDS:
        for text, _ in language.examples[kind]:
            assert detect_language(text) is language, text
            assert kind_of(text, language) == kind, text


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.code)
def test_the_worked_examples_pass_the_checks_themselves(language: Language) -> None:
    for kind in KINDS:
        for text, rewrite in language.examples[kind]:
            assert find_fault(Rewording(text, rewrite, language, kind, 0.7, 0.25)) is None, text


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.code)
def test_the_word_lists_are_words_as_texts_are_divided(language: Language) -> None:
    for word in language.function_words | language.request_verbs | language.negations | language.first_person:
        assert words(word) == [word]


@pytest.mark.parametrize(
    ("text", "code", "kind"),
    [
        ("what is glass made of", "en", "question"),
        ("Please say what glass is made of.", "en", "statement"),
        ("Write a poem about the sea", "en", "request"),
        ("My sister is ill and I am sad.", "en", "statement"),
        ("Wie backe ich Brot", "de", "question"),
        ("Schreibe ein Gedicht über das Meer", "de", "request"),
        ("Où est la gare ?", "fr", "question"),
        ("Escribe un poema sobre el mar", "es", "request"),
        ("怎么做面包", "zh", "question"),
        ("パンの作り方は?", None, "question"),
        ("Как дела", None, "statement"),
        ("", None, "statement"),
        ("Penguin, tiger, rabbit", None, "statement"),
    ],
)
def test_language_and_kind_are_detected(text: str, code: str | None, kind: str) -> None:
    language = detect_language(text)
    assert (language.code if language else None) == code
    assert kind_of(text, language) == kind


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("No end", ["No end"]),
        ("Ask Dr. Smith at 3.5 km, e.g. today. Then go.", ["Ask Dr. Smith at 3.5 km, e.g. today.", "Then go."]),
        ("Sort them.\nPlum, fig\n\nDone", ["Sort them.", "Plum, fig", "Done"]),
        ('He said "go." Then we went.', ['He said "go."', "Then we went."]),
        ("你好。你好吗？好", ["你好。", "你好吗？", "好"]),  # noqa: RUF001
        ("", []),
    ],
)
def test_a_text_is_divided_into_sentences(text: str, sentences: list[str]) -> None:
    assert [sentence.text for sentence in split_sentences(text)] == sentences


@given(st.text(alphabet="ab .!?\n\t。", max_size=60))
def test_the_sentences_of_a_text_are_the_text(text: str) -> None:
    assert "".join(s.text + s.space for s in split_sentences(text)).strip() == text.strip()


def test_lists_and_short_sentences_stay_as_they_are() -> None:
    english = LANGUAGES[0]
    assert can_be_reworded("What is glass made of?", english)
    assert not can_be_reworded("Red, blue, green, yellow", english)
    assert not can_be_reworded("Hello doctor.", english)
    assert can_be_reworded("Как испечь ржаной хлеб", None)
