"""The names of a run's methods: each stands for one, and what stands for none is one line."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_personal.augmentation.filters import FILTERS
from mlx_personal.errors import UserError
from mlx_personal.research.lamp.methods import Method, method_named

PLAIN = [
    ("non-personalised", {}),
    ("random", {"retriever": "random", "items": 4}),
    ("recency", {"retriever": "recency", "items": 4}),
    ("bm25", {"retriever": "bm25", "items": 4}),
    ("bm25:1", {"retriever": "bm25", "items": 1}),
    ("random:2", {"retriever": "random", "items": 2}),
    ("recency:12", {"retriever": "recency", "items": 12}),
    ("profile", {"profile": True}),
    ("oppu", {"learns": "real"}),
    ("oppu+bm25", {"learns": "real", "items": 4}),
    ("oppu+recency:2", {"learns": "real", "retriever": "recency", "items": 2}),
    ("cdcda", {"learns": "augmented"}),
    ("cdcda+bm25:1", {"learns": "augmented", "items": 1}),
    ("cloud", {"cloud": True, "items": 4}),
    ("cloud:0", {"cloud": True, "items": 0}),
]


@pytest.mark.parametrize(("name", "parts"), PLAIN, ids=[name for name, _ in PLAIN])
def test_a_name_says_what_stands_in_the_prompt_what_is_learnt_and_who_answers(name: Any, parts: Any) -> None:
    assert method_named(name) == Method(name, **parts)


@pytest.mark.parametrize("filtered", FILTERS)
@pytest.mark.parametrize("rest", ["", "+random:2"])
def test_every_filter_can_be_left_out(filtered: Any, rest: str) -> None:
    parts = {"retriever": "random", "items": 2} if rest else {}
    name = f"cdcda-no-{filtered}{rest}"
    assert method_named(name) == Method(name, learns="augmented", off=frozenset([filtered]), **parts)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "bm24",
        "BM25",
        "bm25:",
        "bm25:0",
        "bm25:-1",
        "bm25:two",
        "bm25:1:2",
        "non-personalised:2",
        "profile:2",
        "oppu:4",
        "oppu+",
        "oppu+bm25:0",
        "oppu+profile",
        "oppu+bm25+recency",
        "oppu-no-copy",
        "cdcda:2",
        "cdcda-no-",
        "cdcda-no-nothing",
        "cdcda-no-copy-no-balance",
        "cloud+bm25",
        " oppu",
    ],
)
def test_what_is_no_method_is_one_line_with_those_there_are(name: str) -> None:
    with pytest.raises(UserError) as raised:
        method_named(name)
    line = str(raised.value)
    assert f"there is no method {name!r}" in line and "\n" not in line
    assert all(known in line for known in ("non-personalised", "random", "recency", "bm25", "oppu", "cloud", *FILTERS))
