"""JSON values are decoded one after the other, wherever the stream is cut into chunks."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.importers import json_values
from mlx_personal.importers.json_values import CUT_OFF, DAMAGED, DamagedValueError, decode_values

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=8,
)


def decoded(text: str, is_list: bool = True, encoding: str = "utf-8", chunk: int = 3) -> tuple[list[Any], str]:
    """Return the values of a text that is read in small chunks, and why the rest is damaged."""
    values: list[Any] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(json_values, "_CHUNK_BYTES", chunk)
        try:
            for _, value in decode_values(io.BytesIO(text.encode(encoding, "surrogatepass")), encoding, is_list):
                values.append(value)
        except DamagedValueError as error:
            return values, error.reason
    return values, ""


@settings(max_examples=50)
@given(st.lists(VALUES), st.integers(1, 9), st.sampled_from([None, 2]), st.booleans())
def test_items_are_those_of_the_whole_text(items: list[Any], chunk: int, indent: int | None, is_ascii: bool) -> None:
    try:
        text = json.dumps(items, indent=indent, ensure_ascii=is_ascii)
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 cannot hold
        text = json.dumps(items, indent=indent)
    assert decoded(text, chunk=chunk) == (json.loads(text), "")


@settings(max_examples=40)
@given(st.lists(VALUES, min_size=1), st.integers(1, 9))
def test_values_in_a_row_are_all_read(values: list[Any], chunk: int) -> None:
    text = "\n".join(map(json.dumps, values))
    assert decoded(text, is_list=False, chunk=chunk) == ([json.loads(json.dumps(value)) for value in values], "")


@given(st.lists(st.text() | st.none() | st.booleans() | st.lists(st.text()), min_size=1, max_size=4), st.data())
def test_a_text_that_is_cut_off_gives_the_items_before_its_end(items: list[Any], data: st.DataObject) -> None:
    text = json.dumps(items)
    length = data.draw(st.integers(1, len(text) - 1))
    values, reason = decoded(text[:length])
    assert (reason, values) == (CUT_OFF, json.loads(text)[: len(values)])


@given(st.text('[]{}",:1e-\\u0 nf\ufeff', max_size=20), st.booleans(), st.integers(1, 5))
def test_damaged_text_gives_a_reason_and_no_other_error(text: str, is_list: bool, chunk: int) -> None:
    values, reason = decoded(text, is_list, chunk=chunk)
    assert isinstance(values, list) and "\n" not in reason


@pytest.mark.parametrize(
    ("text", "values", "reason"),
    [
        ("[1, 2] [3]", [1, 2, 3], ""),
        ("\ufeff [ ]", [], ""),
        (" ", [], CUT_OFF),
        ("[1, 2", [1, 2], CUT_OFF),
        ("[1, 2,", [1, 2], CUT_OFF),
        ("[1 2]", [1], DAMAGED),
        ("[1, }", [1], DAMAGED),
        ('[{"a": }, ' + "1, " * 50, [], DAMAGED),
        ("[1] x", [1], DAMAGED),
        ("[" * 200_000, [], "JSON nested too deeply"),
        ("[" + "1" * 5000 + "]", [], "a number with too many digits"),
        ('["a\nb"]', ["a\nb"], ""),
    ],
)
def test_edge_cases(text: str, values: list[Any], reason: str) -> None:
    assert decoded(text, chunk=1_000_000) == (values, reason)


def test_other_encodings() -> None:
    assert decoded('["\u00e9", "\U0001f600"]', encoding="utf-16", chunk=1) == (["\u00e9", "\U0001f600"], "")
    assert list(decode_values(io.BytesIO(b'["a\xffb", "c"]'), "utf-8", True)) == [("", "a\udcffb"), ("", "c")]
    assert list(decode_values(io.BytesIO(b'[\0"\0\0\xd8"\0]\0'), "utf-16-le", True)) == [("", "\ufffd")]


@settings(max_examples=40)
@given(st.dictionaries(st.text("ab"), VALUES, max_size=3), st.lists(VALUES), st.dictionaries(st.text("cd"), VALUES))
def test_the_items_under_a_key_of_an_object_are_read(
    before: dict[str, Any], items: list[Any], after: dict[str, Any]
) -> None:
    text = json.dumps({**before, "rows": items, **after})
    values = list(decode_values(io.BytesIO(text.encode()), "utf-8", False, ["rows"]))
    assert values == [("rows", item) for item in json.loads(text)["rows"]]


def test_the_items_under_several_keys_are_read_in_order() -> None:
    text = '{"b": [1], "a": [2, 3], "c": [4], "b": [5]}'
    values = list(decode_values(io.BytesIO(text.encode()), "utf-8", False, ["a", "b"]))
    assert values == [("b", 1), ("a", 2), ("a", 3), ("b", 5)]


@pytest.mark.parametrize(
    ("text", "values", "reason"),
    [
        ('{"rows": [1, 2], "more": 3} {"rows": [4]}', [1, 2, 4], ""),
        ('{"rows": 1}', [], ""),
        ('{"rows": [1', [1], CUT_OFF),
        ('{"rows": [1], ', [1], CUT_OFF),
        ('{"rows": [1] "a": 2}', [1], DAMAGED),
        ('{"rows" [1]}', [], DAMAGED),
        ('{"a": ' + '{"a":' * 100_000, [], "JSON nested too deeply"),
    ],
)
def test_damaged_objects_give_the_items_before(text: str, values: list[Any], reason: str) -> None:
    found: list[Any] = []
    try:
        for _, value in decode_values(io.BytesIO(text.encode()), "utf-8", False, ["rows"]):
            found.append(value)
    except DamagedValueError as error:
        assert error.reason == reason
    else:
        assert not reason
    assert found == values


def test_a_value_that_never_ends_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "MAX_VALUE_CHARS", 100)
    assert decoded('["' + "x" * 1000) == ([], "a value of over 100 characters")
