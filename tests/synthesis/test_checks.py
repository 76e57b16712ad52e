"""Checks of meaning: which fault each of them finds, and that good rewrites have none."""

from __future__ import annotations

import pytest

from mlx_personal.synthesis.checks import CHECKS, Rewording, find_fault
from mlx_personal.synthesis.content import content_kept, content_words
from mlx_personal.synthesis.languages import detect_language, kind_of


def fault(original: str, rewrite: str, kept: float = 0.7, added: float = 0.25) -> str | None:
    language = detect_language(original)
    return find_fault(Rewording(original, rewrite, language, kind_of(original, language), kept, added))


@pytest.mark.parametrize(
    ("original", "rewrite"),
    [
        ("What is glass made of?", "Do you know what glass is made of?"),
        ("What is glass made of", "I'd like to know what glass is made of."),
        ("What is the purpose of glass?", "I'd like to know the purpose of glass."),
        ("Is rye bread good?", "I wonder if rye bread is good."),
        ("Which bread is good?", "What bread is good?"),
        ("Sort the 3 animals by habitat.", "Could you sort the 3 animals by their habitat?"),
        ("I moved over the weekend with Emma.", "Over the weekend, I moved with Emma."),
        ("I can't find my phone.", "My phone: I cannot find it."),
        ("Wie backe ich ein Brot mit Roggen?", "Kannst du mir sagen, wie ich ein Brot mit Roggen backe?"),
        ("Comment faire du pain de seigle ?", "J'aimerais savoir comment faire du pain de seigle."),
        ("¿Cómo hago pan de centeno?", "¿Puedes decirme cómo hago pan de centeno?"),
        ("巴西比印度大吗？", "请问巴西是不是比印度大？"),  # noqa: RUF001
        ("Как испечь ржаной хлеб?", "Скажи, как испечь ржаной хлеб?"),
    ],
)
def test_a_rewrite_with_the_same_meaning_has_no_fault(original: str, rewrite: str) -> None:
    assert fault(original, rewrite) is None


FAULTS = [
    ("comment", "How do I bake rye bread?", "Here is how you bake rye bread?"),
    ("comment", "I lost my phone today.", "I'm sorry, but I cannot say that about the phone today."),
    ("language", "How do I bake rye bread?", "Wie backe ich ein Brot mit Roggen?"),
    ("language", "How do I bake rye bread?", "Как испечь ржаной хлеб?"),
    ("form", "How do I bake rye bread?", "I bake rye bread with flour."),
    ("form", "I have baked rye bread.", "Have I baked rye bread?"),
    ("form", "Name three animals of the forest.", "Three animals of the forest are named."),
    ("question word", "Is rye bread good?", "Do you know which rye bread is good?"),
    ("question word", "Is rye bread good?", "Do you know the rye bread is good?"),
    ("question word", "Why do people bake rye bread?", "I wonder if people bake rye bread."),
    ("length", "How do I bake rye bread?", "Bread?"),
    ("length", "How do I bake rye bread?", "How do I bake rye bread, and what is it that I do with it then?"),
    ("loop", "How do I bake good bread at home?", "How do I bake good, how do I bake good bread?"),
    ("numbers", "What can I cook with 3 eggs?", "Do you know what I can cook with 4 eggs?"),
    ("numbers", "What can I cook with three eggs?", "What could I cook with two eggs?"),
    ("numbers", "What can I cook with eggs?", "Do you know what I can cook with 3 eggs?"),
    ("negation", "Why does my bread rise?", "Why does my bread not rise?"),
    ("negation", "Why doesn't my bread rise?", "I was wondering why my bread does rise."),
    ("names", "Who painted the chapel in Rome?", "Do you know who painted the chapel?"),
    ("names", "Who painted the chapel?", "Do you know who in Rome painted the chapel?"),
    ("persons", "I have a really sore throat.", "You have a really sore throat."),
    ("persons", "What is glass made of?", "Do you know what my glass is made of?"),
    ("persons", "What should I get for a birthday?", "Can you say what she should get me for a birthday?"),
    ("example copied", "What is a good way to dry a shirt?", "Do you know a good way to dry a coffee shirt?"),
    ("content lost", "Why does bread with rye flour rise slowly?", "Do you know why bread does this?"),
    ("content added", "Why does bread rise?", "Why does fresh wheat bread rise high?"),
]


@pytest.mark.parametrize(("reason", "original", "rewrite"), FAULTS)
def test_each_fault_is_found(reason: str, original: str, rewrite: str) -> None:
    assert fault(original, rewrite) == reason


def test_every_check_is_tested() -> None:
    assert {reason for reason, _, _ in FAULTS} == set(CHECKS)


def test_the_degree_of_content_is_set() -> None:
    original, rewrite = "Why does bread with rye flour rise slowly?", "Do you know why this bread rises so?"
    assert fault(original, rewrite) == "content lost"
    assert fault(original, rewrite, kept=0.4) is None
    assert fault("Why does bread rise?", "Why does fresh bread rise?", added=0.3) == "content added"


def test_content_words_are_compared_without_their_endings() -> None:
    english = detect_language("What is it that they do?")
    assert content_words("What do the bakers bake?", english) == ["bakers", "bake"]
    assert content_kept("They bake breads", "Baking bread", english) == 1
    assert content_kept("They bake breads", "They sleep", english) == 0
    assert content_kept("What is it?", "anything", english) == 1
    # Without a list of function words, the longer words count.
    assert content_kept("Как испечь ржаной хлеб", "испечь хлеб", None) == pytest.approx(2 / 4)


def test_of_many_names_a_few_may_be_missing() -> None:
    original = "Who of Anna, Boris, Clara and David came to the party in the evening?"
    without_one = "Do you know who of Anna, Boris and Clara came to the party in the evening?"
    without_two = "Do you know who of Anna and Boris came to the party in the evening?"
    assert fault(original, without_one) is None
    assert fault(original, without_two) == "names"
