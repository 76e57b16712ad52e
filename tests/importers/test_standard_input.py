"""Standard input: any format, read while it arrives, and not kept."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import sys
import tempfile
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import UserError
from mlx_personal.importers import (
    ImportedDialogue,
    Skipped,
    read_imports,
    standard_input,
)
from tests.support.exports import write_database
from tests.support.imports import LINE, LINES, counted, error_of, write_zip


@pytest.mark.parametrize(
    "data", [LINES, gzip.compress(LINES), LINES.decode().encode("utf-16")], ids=["plain", "gzip", "UTF-16"]
)
def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert counted(Path("-")) == (2, [])


def test_a_zip_from_standard_input_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_zip(tmp_path / "a.zip", {"a.jsonl": LINES, "b.jsonl": LINE}).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert counted(Path("-")) == (3, [])


class Pipe(io.RawIOBase):
    """A pipe in which rows arrive, and which counts its bytes."""

    def __init__(self, rows: Iterator[bytes]):
        self._rows, self._rest = rows, b""
        self.read_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._rest = self._rest or next(self._rows, b"")
        data, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(data)] = data
        self.read_bytes += len(data)
        return len(data)


def piped(monkeypatch: pytest.MonkeyPatch, rows: Iterable[bytes]) -> Pipe:
    """Replace standard input by a pipe, and return it."""
    pipe = Pipe(iter(rows))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(pipe)))
    return pipe


def test_what_arrives_is_read_before_the_end_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    row = json.dumps({"prompt": "When is the pear ripe?", "completion": "In September. " * 5000}).encode() + b"\n"
    pipe = piped(monkeypatch, itertools.repeat(row, 600))
    items = read_imports(Path("-"))
    assert isinstance(next(items), ImportedDialogue)
    assert pipe.read_bytes < 5_000_000
    tracemalloc.start()
    assert sum(isinstance(item, ImportedDialogue) for item in items) == 599
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pipe.read_bytes == 600 * len(row) > 40_000_000
    assert peak_bytes < 35_000_000


def test_a_database_from_standard_input_is_read_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = "CREATE TABLE chats (id); CREATE TABLE messages (id, chat_id, role, content, model_name);"
    messages = [(1, "c", "user", "When is the pear ripe?", ""), (2, "c", "assistant", "In September.", "")]
    data = write_database(tmp_path / "chats.db", tables, {"chats": [("c",)], "messages": messages}).read_bytes()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for content in (data, gzip.compress(data)):
        piped(monkeypatch, [content])
        assert counted(Path("-")) == (1, [])
        assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("stdin", [None, io.StringIO()], ids=["from Python", "from the command line"])
def test_closed_input_is_refused(monkeypatch: pytest.MonkeyPatch, stdin: io.StringIO | None) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    assert error_of(Path("-")) == "standard input: is closed; name a file"


def test_what_would_have_to_be_read_twice_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_input, "_KEPT_BYTES", 100)
    piped(monkeypatch, [LINES * 10])
    assert error_of(Path("-")) == (
        "standard input: can be read only once in this format; save it as a file, and name that"
    )


def test_a_zip_that_is_larger_than_any_export_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_input, "MAX_TOTAL_BYTES", 100)
    piped(monkeypatch, [b"PK\x03\x04", b"x" * 200])
    assert error_of(Path("-")) == "standard input: is larger than 0 GB; save it as a file, and name that"


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\x03\x04broken", b"SQLite format 3\0" + b"x" * 100, gzip.compress(LINES)[:-9]],
    ids=["empty", "zip", "SQLite", "gzip"],
)
def test_damaged_input_is_refused_or_counted(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    piped(monkeypatch, [data])
    try:
        items = list(read_imports(Path("-")))
    except UserError as error:
        assert "\n" not in error.line() and error.line().startswith("standard input")
    else:
        assert any(isinstance(item, Skipped) and item.is_damaged for item in items)
