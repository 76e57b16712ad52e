"""Records of JSON files: lists, objects and lines, whatever ends the lines, and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal import UserError
from mlx_personal.importers import Skipped, json_records
from mlx_personal.importers.head import read_head
from mlx_personal.importers.json_records import Record, read_json_lines, read_lines, read_records
from mlx_personal.importers.paths import file_document


def records(file: Path) -> list[Record | Skipped]:
    document = file_document(file)
    return list(read_records(document, read_head(document)))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": 2}', [({"a": 1}, ":1"), ({"a": 2}, ":3")]),
        ("a.jsonl", '{"a": 1}\r\n{"a": 2}\r\n', [({"a": 1}, ":1"), ({"a": 2}, ":2")]),
        ("a.jsonl", '{"a": 1}\r{"a": 2}', [({"a": 1}, ":1"), ({"a": 2}, ":2")]),
        ("a.txt", '{"a": "\u2028"}\n{"a": "\x85"}', [({"a": "\u2028"}, ":1"), ({"a": "\x85"}, ":2")]),
        ("a.json", '[{"a": 1}, {"a": 2}]', [({"a": 1}, ":1"), ({"a": 2}, ":2")]),
        ("a.json", '{\n"a": 1\n}', [({"a": 1}, "")]),
        ("a.json", '{"a": 1}{"a": 2}', [({"a": 1}, ""), ({"a": 2}, "")]),
        ("a.json", '{"v": 1, "data": [{"a": 1}, {"a": 2}], "n": 2}', [({"a": 1}, ":1"), ({"a": 2}, ":2")]),
        ("a.json", '{"a": 1, "a": 2}', [({"a": 2}, "")]),
    ],
)
def test_records_of_every_layout(tmp_path: Path, name: str, text: str, expected: list[tuple[object, str]]) -> None:
    file = tmp_path / name
    file.write_bytes(text.encode())
    assert records(file) == [Record(value, f"{file}{place}") for value, place in expected]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"a": 1}, {"a": 2', "the end of the file is missing"),
        ('[{"a": 1}, {"a": oops}, {"a": 3}]' + " " * 100, "not JSON; the rest of the file was not read"),
        ('[{"a": 1}, ' + "[" * 100_000, "JSON nested too deeply; the rest of the file was not read"),
        ('[{"a": 1}, ' + "9" * 5000 + "]", "a number with too many digits; the rest of the file was not read"),
    ],
)
def test_of_a_damaged_list_the_records_before_are_read(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.json").write_text(text)
    first, second = records(tmp_path / "a.json")
    assert first == Record({"a": 1}, f"{tmp_path / 'a.json'}:1")
    assert second == Skipped(f"{tmp_path / 'a.json'}:2", reason, is_damaged=True)


def test_a_line_that_never_ends_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "MAX_LINE_BYTES", 1_000_000)
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n' + b"x" * 2_500_000 + b'\n{"a": 2}\n' + b"x" * 1_500_000)
    reason = "a line of over 1 MB"
    assert [item.reason if isinstance(item, Skipped) else item.value for item in records(tmp_path / "a.jsonl")] == [
        {"a": 1},
        reason,
        {"a": 2},
        reason,
    ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))), st.integers(1, 5))
def test_lines_are_those_of_the_text(tmp_path: Path, lines: list[str], chunk: int) -> None:
    for end in ("\n", "\r", "\r\n"):
        (tmp_path / "a.txt").write_bytes("".join(line + end for line in lines).encode())
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(json_records, "_CHUNK_BYTES", chunk)
            found = list(read_lines(file_document(tmp_path / "a.txt"), "utf-8"))
        assert found == [(number, line.encode()) for number, line in enumerate(lines, 1)]


def test_the_lines_of_a_file_are_read_whatever_they_hold(tmp_path: Path) -> None:
    file = tmp_path / "verdicts"
    file.write_bytes('"a\u2028b\u0085c"\r\n\n{\n[1]'.encode())
    assert list(read_json_lines(str(file))) == [
        Record("a\u2028b\u0085c", f"{file}:1"),
        Skipped(f"{file}:3", "not JSON (expecting property name enclosed in double quotes)", is_damaged=True),
        Record([1], f"{file}:4"),
    ]
    file.write_text(json.dumps({"a": "é"}, ensure_ascii=False), encoding="utf-16")
    assert list(read_json_lines(file)) == [Record({"a": "é"}, f"{file}:1")]
    with pytest.raises(UserError, match="is a folder, not a file"):
        list(read_json_lines(tmp_path))
    with pytest.raises(UserError, match="no such file"):
        list(read_json_lines(tmp_path / "none"))
