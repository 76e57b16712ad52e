"""Prompts with items of a user: the wording of every task, and the budget with a tokenizer of words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.research.lamp.lamp_prompts import RetrievalPrompt, build_retrieval_prompt
from mlx_personal.research.lamp.tasks import TASKS, Item

TOKENS: dict[str, int] = {}


def encode(text: str) -> list[int]:
    """Return a token for each word."""
    return [TOKENS.setdefault(word, len(TOKENS)) for word in text.split()]


def decode(tokens: list[int]) -> str:
    words = list(TOKENS)
    return " ".join(words[token] for token in tokens)


def build(name: str, query_input: str, items: Sequence[Item], max_length: int = 1000) -> RetrievalPrompt:
    return build_retrieval_prompt(TASKS[name], query_input, items, max_length, encode, decode)


PROMPTS: list[tuple[str, str, list[Item], str]] = [
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


@pytest.mark.parametrize(("name", "query_input", "items", "expected"), PROMPTS, ids=[case[0] for case in PROMPTS])
def test_items_are_written_as_in_the_benchmark(name: str, query_input: str, items: list[Item], expected: str) -> None:
    assert build(name, query_input, items) == RetrievalPrompt(expected, 2, 0)


def words(letter: str, count: int) -> str:
    return " ".join(f"{letter}{n}" for n in range(count))


# Two items, of 4 and 90 words, and an input of 10 words. Of the remaining budget each item gets one half. The second
# item gets its half minus its fixed words, plus what the first did not use.
BUDGETS = [
    # 60 - 10 = 50, minus 2 for the separator: 24 each; the quotes take 2. The first leaves 24 - 2 - 4 = 18.
    ("1", {"title": "{}"}, 24 - 2 + 18),
    # 50 - 1 - 2 = 47: 23 each. the category for the article: " " is "crime": 9. It leaves 10.
    ("2N", {"text": "{}", "category": "crime"}, 23 - 9 + 10),
    ("2M", {"description": "{}", "tag": "comedy"}, 23 - 9 + 10),
    # 4 is the score for " ": 7. It leaves 12.
    ("3", {"text": "{}", "score": "4"}, 23 - 7 + 12),
    # "Rain" is the title for " ": 7.
    ("4", {"text": "{}", "title": "Rain"}, 23 - 7 + 12),
    # 47 - 4 for `Following the given patterns`: 21 each. "Rain" is a title " ", without `for`: 6. It leaves 11.
    ("5", {"abstract": "{}", "title": "Rain"}, 21 - 6 + 11),
    # 47 - 8 for `are written by user. Following the given patterns`: 19 each. Its quotes: 1. It leaves 14.
    ("7", {"text": "{}"}, 19 - 1 + 14),
]


@pytest.mark.parametrize(("name", "item", "length"), BUDGETS, ids=[case[0] for case in BUDGETS])
def test_what_an_item_does_not_use_goes_to_the_next(name: str, item: dict[str, str], length: int) -> None:
    query_input = "the title " + words("q", 8)
    items = [{key: value.format(text) for key, value in item.items()} for text in (words("a", 4), words("b", 90))]
    prompt = build(name, query_input, items, max_length=60)
    assert (prompt.num_items, prompt.num_shortened) == (2, 1)
    assert f'"{words("a", 4)}"' in prompt.text
    assert f'"{words("b", length)}"' in prompt.text


def test_a_long_input_gets_six_tenths_and_less_where_an_item_would_not_fit() -> None:
    query_input, movie = words("q", 40), [{"description": words("a", 9), "tag": "comedy"}]
    # 100 - 40 = 60, since the input is shorter than its share.
    assert build("2M", query_input, movie, 100).num_shortened == 0
    # 40 minus 24 for the input, 1, and 9 for the item's words: 6 words of its text.
    assert f'"{words("a", 6)}" is' in build("2M", query_input, movie, 40).text
    # 20: 12 for the input leave 8 for the item, too few for its words; 10 leave 10, which 9 and the 1 fill.
    assert build("2M", query_input, movie, 20).text == f'the tag for the movie: "" is "comedy" . {query_input}'
    # 10: none for the input, and 10 for the item.
    assert build("2M", query_input, movie, 10).num_items == 1


def test_the_input_stands_alone_where_the_items_do_not_fit() -> None:
    query_input = words("q", 40)
    item = {"description": "x", "tag": "comedy"}
    assert build("2M", query_input, [item], 9) == RetrievalPrompt(query_input, 0, 0)
    assert build("2M", query_input, []) == RetrievalPrompt(query_input, 0, 0)


@given(st.integers(1, 20_000))
def test_the_share_in_tenths_equals_the_factor_of_the_benchmark(max_length: int) -> None:
    factor = 0.6
    for tenths in range(6, -1, -1):
        assert int(factor * max_length) == tenths * max_length // 10
        factor -= 0.1
    assert factor < 0


@given(st.integers(150, 400), st.lists(st.integers(1, 60), min_size=1, max_size=6), st.sampled_from(sorted(TASKS)))
def test_a_prompt_with_items_stays_within_the_budget(max_length: int, lengths: list[int], name: str) -> None:
    item = {"tag": "comedy", "category": "crime", "score": "4"}
    texts = [words("a", length) for length in lengths]
    items = [item | dict.fromkeys(("title", "text", "description", "abstract"), text) for text in texts]
    if name in "45":
        items = [entry | {"title": "Rain"} for entry in items]
    prompt = build(name, "the title " + words("q", 3), items, max_length)
    assert prompt.text.endswith(words("q", 3))
    # LaMP's script does not count the "for" of LaMP-5's items, nor all words of LaMP-7's ending.
    slack = {"5": len(items), "7": 2}.get(name, 0)
    assert prompt.num_items == len(items)
    assert len(encode(prompt.text)) <= max_length + slack
