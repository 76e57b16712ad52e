"""The names of methods: each valid name is one method, and any other name is a user error."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_personal.augmentation.filters import FILTERS
from mlx_personal.errors import UserError
from mlx_personal.research.lamp.methods import Method, parse_method

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("non-personalized", {}),
    ("majority", {"is_majority": True}),
    ("random", {"retriever": "random", "num_items": 4}),
    ("recency", {"retriever": "recency", "num_items": 4}),
    ("bm25", {"retriever": "bm25", "num_items": 4}),
    ("bm25:1", {"retriever": "bm25", "num_items": 1}),
    ("random:2", {"retriever": "random", "num_items": 2}),
    ("recency:12", {"retriever": "recency", "num_items": 12}),
    ("profile", {"with_summary": True}),
    ("oppu", {"training_data": "real"}),
    ("oppu+bm25", {"training_data": "real", "num_items": 4}),
    ("oppu+recency:2", {"training_data": "real", "retriever": "recency", "num_items": 2}),
    ("cdcda", {"training_data": "augmented"}),
    ("cdcda+bm25:1", {"training_data": "augmented", "num_items": 1}),
    ("cloud", {"on_server": True, "num_items": 4}),
    ("cloud:0", {"on_server": True, "num_items": 0}),
]


@pytest.mark.parametrize(("name", "fields"), METHODS, ids=[name for name, _ in METHODS])
def test_a_name_decides_the_prompt_the_training_data_and_the_model(name: str, fields: dict[str, Any]) -> None:
    assert parse_method(name) == Method(name, **fields)


@pytest.mark.parametrize("disabled", FILTERS)
@pytest.mark.parametrize(("suffix", "num_items"), [("", 0), ("+random:2", 2)])
def test_every_filter_can_be_disabled(disabled: str, suffix: str, num_items: int) -> None:
    name = f"cdcda-no-{disabled}{suffix}"
    expected = Method(
        name,
        retriever="random" if suffix else "bm25",
        num_items=num_items,
        training_data="augmented",
        disabled_filters=frozenset([disabled]),
    )
    assert parse_method(name) == expected


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
        "non-personalized:2",
        "profile:2",
        "majority:2",
        "oppu+majority",
        "non-personalised",
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
def test_an_unknown_name_is_one_line_that_lists_the_known_names(name: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_method(name)
    line = str(raised.value)
    assert f"there is no method {name!r}" in line and "\n" not in line
    assert all(known in line for known in ("non-personalized", "random", "recency", "bm25", "oppu", "cloud", *FILTERS))
