"""The retrieval-augmented input: every task's wording by hand, and the budget on a tokenizer of words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.research.lamp.lamp_prompts import Augmented, augment
from mlx_personal.research.lamp.tasks import TASKS

NUMBERS: dict[str, int] = {}


def encode(text: Any) -> Any:
    """A token a word."""
    return [NUMBERS.setdefault(word, len(NUMBERS)) for word in text.split()]


def decode(tokens: Any) -> Any:
    words = list(NUMBERS)
    return " ".join(words[token] for token in tokens)


def augmented(name: Any, asked: Any, items: Any, max_length: Any = 1000) -> Any:
    return augment(TASKS[name], asked, items, max_length, encode, decode)


WRITTEN = [
    (
        "1",
        'For an author who has written the paper with the title "T", which reference is related?',
        [{"title": "On leeks", "abstract": "a"}, {"title": "On {soup}", "abstract": "b"}],
        'For an author who has written the paper with the title, and "On leeks", and "On {soup}" "T", which reference '
        "is related?",
    ),
    (
        "2N",
        "Which? article: x",
        [
            {"text": "They won.", "title": "t", "category": "sports"},
            {"text": "Tax.", "title": "t", "category": "crime"},
        ],
        'the category for the article: "They won." is "sports" , and the category for the article: "Tax." is "crime" . '
        "Which? article: x",
    ),
    (
        "2M",
        "Which? description: x",
        [{"description": "A dog.", "tag": "comedy"}, {"description": "A cat.", "tag": "classic"}],
        'the tag for the movie: "A dog." is "comedy" , and the tag for the movie: "A cat." is "classic" . '
        "Which? description: x",
    ),
    (
        "3",
        "What? review: x",
        [{"text": "Bad.", "score": "1"}, {"text": "Good.", "score": 5}],
        '1 is the score for "Bad." , and 5 is the score for "Good." . What? review: x',
    ),
    (
        "4",
        "Generate a headline for the following article: x",
        [{"text": "It rained.", "title": "Rain"}, {"text": "It shone.", "title": "Sun"}],
        '"Rain" is the title for "It rained." , and "Sun" is the title for "It shone." . '
        "Generate a headline for the following article: x",
    ),
    (
        "5",
        "Generate a title for the following abstract of a paper: x",
        [{"abstract": "We rain.", "title": "Rain"}, {"abstract": "We shine.", "title": "Sun"}],
        '"Rain" is a title for "We rain." , and "Sun" is a title for "We shine." . Following the given patterns '
        "Generate a title for the following abstract of a paper: x",
    ),
    (
        "7",
        "Paraphrase the following tweet without any explanation before or after it: x",
        [{"text": "rain again"}, {"text": "sun :)"}],
        '"rain again" , and "sun :)"  are written by a person. Following the given patterns '
        "Paraphrase the following tweet without any explanation before or after it: x",
    ),
]


@pytest.mark.parametrize(("name", "asked", "items", "expected"), WRITTEN, ids=[case[0] for case in WRITTEN])
def test_items_are_written_as_the_benchmark_writes_them(name: Any, asked: Any, items: Any, expected: Any) -> None:
    assert augmented(name, asked, items) == Augmented(expected, 2, 0)


def words(letter: Any, count: Any) -> Any:
    return " ".join(f"{letter}{n}" for n in range(count))


# Two items, of 4 and 30 words. `fixed`: words of an item beside its text; `joint`: what the budget loses to the rest;
# the input has 10 words. The second item gets `each - fixed`, and what the first left over.
BUDGETS = [
    # 60 - 10 = 50, less 2 for the joint: 24 each; the quotes take 2. The first leaves 24 - 2 - 4 = 18 over.
    ("1", {"title": "{}"}, 24 - 2 + 18),
    # 50 - 1 - 2 = 47: 23 each. the category for the article: " " is "crime": 9. It leaves 10 over.
    ("2N", {"text": "{}", "category": "crime"}, 23 - 9 + 10),
    ("2M", {"description": "{}", "tag": "comedy"}, 23 - 9 + 10),
    # 4 is the score for " ": 7. It leaves 12 over.
    ("3", {"text": "{}", "score": "4"}, 23 - 7 + 12),
    # "Rain" is the title for " ": 7.
    ("4", {"text": "{}", "title": "Rain"}, 23 - 7 + 12),
    # 47 - 4 for `Following the given patterns`: 21 each. "Rain" is a title " ", without `for`: 6. It leaves 11 over.
    ("5", {"abstract": "{}", "title": "Rain"}, 21 - 6 + 11),
    # 47 - 8 for `are written by user. Following the given patterns`: 19 each. Its quotes: 1. It leaves 14 over.
    ("7", {"text": "{}"}, 19 - 1 + 14),
]


@pytest.mark.parametrize(("name", "form", "room"), BUDGETS, ids=[case[0] for case in BUDGETS])
def test_what_an_item_leaves_over_goes_to_the_next(name: Any, form: Any, room: Any) -> None:
    asked = "the title " + words("q", 8)
    items = [{key: value.format(text) for key, value in form.items()} for text in (words("a", 4), words("b", 90))]
    found = augmented(name, asked, items, max_length=60)
    assert (found.items, found.shortened) == (2, 1)
    assert f'"{words("a", 4)}"' in found.text
    assert f'"{words("b", room)}"' in found.text


def test_a_long_input_keeps_six_tenths_and_less_where_an_item_has_no_room() -> None:
    asked, movie = words("q", 40), [{"description": words("a", 9), "tag": "comedy"}]
    # 100 - 40 = 60, where the input is shorter than its share.
    assert augmented("2M", asked, movie, 100).shortened == 0
    # 40: less 24 for the input, 1, and 9 for the item's words: 6 of its text.
    assert f'"{words("a", 6)}" is' in augmented("2M", asked, movie, 40).text
    # 20: 12 for the input leave 8 for the item, too few for its words; 10 leave 10, which 9 and the 1 fill.
    assert augmented("2M", asked, movie, 20).text == f'the tag for the movie: "" is "comedy" . {asked}'
    # 10: none for the input, and 10 for the item.
    assert augmented("2M", asked, movie, 10).items == 1


def test_items_that_do_not_fit_leave_the_input_alone() -> None:
    asked = words("q", 40)
    assert augmented("2M", asked, [{"description": "x", "tag": "comedy"}], 9) == Augmented(asked, 0, 0)
    assert augmented("2M", asked, []) == Augmented(asked, 0, 0)


@given(st.integers(1, 20_000))
def test_the_share_in_tenths_is_the_benchmarks_factor(max_length: Any) -> None:
    factor = 0.6
    for tenths in range(6, -1, -1):
        assert int(factor * max_length) == tenths * max_length // 10
        factor -= 0.1
    assert factor < 0


@given(st.integers(150, 400), st.lists(st.integers(1, 60), min_size=1, max_size=6), st.sampled_from(sorted(TASKS)))
def test_an_input_with_items_keeps_the_budget(max_length: Any, lengths: Any, name: Any) -> None:
    item = {"tag": "comedy", "category": "crime", "score": "4"}
    texts = [words("a", length) for length in lengths]
    items = [item | dict.fromkeys(("title", "text", "description", "abstract"), text) for text in texts]
    if name in "45":
        items = [entry | {"title": "Rain"} for entry in items]
    asked = "the title " + words("q", 3)
    found = augmented(name, asked, items, max_length)
    assert found.text.endswith(words("q", 3))
    # LaMP's script does not count the "for" of LaMP-5's items, nor all words of LaMP-7's ending.
    slack = {"5": len(items), "7": 2}.get(name, 0)
    assert found.items == len(items)
    assert len(encode(found.text)) <= max_length + slack
