"""What is known about a file from its beginning."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.importers import ImportedDialogue, read_imports
from mlx_personal.importers.head import HEAD_BYTES, head_of, read_head
from mlx_personal.importers.paths import file_document
from tests.support.cases import quick_cases

ROW = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
WIDE = ("utf-32", "utf-32-le", "utf-32-be")
PRINTED = json.dumps([json.loads(ROW)] * 3, indent=1)


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.jsonl", ROW.encode(), "lines"),
        ("a.json", ROW.encode(), "json"),
        ("a.json", f"{ROW}\n{ROW}".encode(), "lines"),
        ("a.txt", f"{ROW}\r{ROW}".encode(), "lines"),
        ("a.jsonl", f"oops\n{ROW}\n{ROW}".encode(), "lines"),
        ("a.jsonl", f"{{oops\n{ROW}\n{ROW}".encode(), "lines"),
        ("a.jsonl.gz", f"[{ROW}]\n[{ROW}]".encode(), "lines"),
        ("a.jsonl", b"hello", "lines"),
        ("a.jsonl", PRINTED.encode(), "json"),
        ("a.json", PRINTED.encode(), "json"),
        ("a.json", json.dumps({"a": {}}, indent=1).encode(), "json"),
        ("a.md", b"# User\nHello", "text"),
        ("a.jsonl", b"", "empty"),
        ("a.json", "\ufeff \n".encode("utf-16"), "empty"),
        ("a", b"\x89BIN\x00\x00\x00\x01", "binary"),
        ("a.json", b'{"a": "x\0y"}', "json"),
        ("a", b"SQLite format 3\0rest", "sqlite"),
        ("a", b"PAR1rest", "parquet"),
        ("a", b"PK\x03\x04rest", "archive"),
    ],
)
def test_the_kind_of_a_file(name: str, data: bytes, kind: str) -> None:
    assert head_of(data, name).kind == kind


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", *WIDE])
def test_the_encoding_of_a_file(encoding: str) -> None:
    head = head_of(ROW.encode(encoding), "a.json")
    assert (head.text, head.kind) == (ROW, "json")
    assert ROW.encode(encoding).decode(head.encoding) == ROW
    assert head.has("messages.item.role", "messages.item.content")
    assert not head.has("messages.item.role", "messages.item.from")


@pytest.mark.parametrize(
    ("value", "is_list", "wrapper", "keys"),
    [
        ([{"a": {"b": [{"c": 1}]}}, {"d": 1}], True, "", {"a", "a.b", "a.b.item.c", "d"}),
        ({"a": [{"b": 1}]}, False, "", {"a", "a.item.b"}),
        ({"conversations": [{"a": 1}], "b": 2}, False, "conversations", {"a"}),
        (
            {"conversations": [{"from": "human", "value": "x"}]},
            False,
            "",
            {"conversations", "conversations.item.from", "conversations.item.value"},
        ),
        ({"data": [{"text": "x"}]}, False, "data", {"text"}),
        ([[{"a": 1}]], True, "", {"item.a"}),
        ({"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": 1}}}}}}}}}, False, "", None),
    ],
)
def test_the_keys_of_the_first_records(value: object, is_list: bool, wrapper: str, keys: set[str] | None) -> None:
    head = head_of(json.dumps(value, indent=1).encode(), "a.json")
    assert (head.is_list, head.wrapper) == (is_list, wrapper)
    if keys is None:
        assert "a.b.c" in head.keys and "a.b.c.d.e.f.g.h.i" not in head.keys
    else:
        assert head.keys == keys


def test_a_line_longer_than_the_beginning_has_keys() -> None:
    row = json.dumps({"messages": [{"role": "user", "content": "x" * HEAD_BYTES}]}).encode()[:HEAD_BYTES]
    head = head_of(row, "a.jsonl")
    assert (head.kind, head.has("messages.item.role")) == ("lines", True)


LONG = "x" * HEAD_BYTES
TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize("encoding", quick_cases(["utf-8", "utf-8-sig", "utf-16", "utf-32-le"], "utf-16"))
@pytest.mark.parametrize(
    ("name", "value", "wrapper"),
    [
        ("a.json", {"account": LONG, "conversations": [{"messages": TURNS}]}, "conversations"),
        ("a.json", {"account": [{"n": 1}] * 30_000, "conversations": [{"messages": TURNS}]}, "conversations"),
        ("a.json", [{"image": LONG, "messages": TURNS}], ""),
        ("a.json", {"image": LONG, "messages": TURNS}, ""),
        ("a.jsonl", {"image": LONG, "messages": TURNS}, ""),
    ],
)
def test_keys_after_a_long_value_are_found(
    tmp_path: Path, name: str, value: object, wrapper: str, encoding: str
) -> None:
    (tmp_path / name).write_bytes(json.dumps(value).encode(encoding))
    head = read_head(file_document(tmp_path / name))
    assert (head.wrapper, head.has("messages.item.role")) == (wrapper, True)
    [item] = read_imports(tmp_path / name)
    assert isinstance(item, ImportedDialogue)


def test_keys_are_not_looked_for_beyond_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"account": LONG, "conversations": [{"messages": TURNS}]}))
    monkeypatch.setattr("mlx_personal.importers.head.MAX_RECORD_BYTES", HEAD_BYTES)
    assert read_head(file_document(tmp_path / "a.json")).wrapper == ""


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_the_time_does_not_grow_with_the_square_of_the_depth(opening: str) -> None:
    data = (opening * HEAD_BYTES)[:HEAD_BYTES].encode()
    start = time.process_time()
    assert head_of(data, "a.json").kind == "json"
    assert time.process_time() - start < 2


@given(
    st.binary(max_size=200) | st.text('[]{}":,\n\\ae1', max_size=60).map(str.encode),
    st.sampled_from(["a.json", "a.jsonl"]),
)
def test_any_bytes_have_a_kind(data: bytes, name: str) -> None:
    assert head_of(data, name).kind
