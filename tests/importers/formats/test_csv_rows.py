"""Training sets in CSV and TSV files: their columns, quoted fields, and what is left out."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.errors import UserError
from mlx_personal.importers import Skipped, read_imports
from mlx_personal.importers.formats.csv_rows import read_csv
from mlx_personal.importers.head import read_head
from mlx_personal.importers.json_records import Record
from mlx_personal.importers.paths import file_document
from tests.support.imports import conversations, error_of, skip_reasons, write_zip

QUESTION, ANSWER = 'When do I sow "peas", and how?', "In March:\n\n- under fleece; 5 cm apart"
EXCHANGE = [("user", QUESTION), ("assistant", ANSWER)]


def write_csv(file: Path, rows: list[list[str]], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with file.open("w", newline="", encoding=encoding) as text:
        csv.writer(text, delimiter=delimiter).writerows(rows)
    return file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.CSV", ";"), ("a.tsv", "\t")])
def test_rows_of_quoted_fields_are_read(tmp_path: Path, name: str, delimiter: str, encoding: str) -> None:
    rows = [["", "Prompt", " completion "], ["1", QUESTION, ANSWER], [], ["2", "Zoë?", "Yes."]]
    file = write_csv(tmp_path / name, rows, delimiter, encoding)
    assert conversations(file) == [EXCHANGE, [("user", "Zoë?"), ("assistant", "Yes.")]]
    assert skip_reasons(file) == []


def test_files_may_be_in_a_zip_or_gzipped(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "a.csv", [["instruction", "input", "output"], [QUESTION, "", ANSWER]]).read_bytes()
    assert conversations(write_zip(tmp_path / "a.zip", {"a.csv": data})) == [EXCHANGE]
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(data))
    assert conversations(tmp_path / "a.csv.gz") == [EXCHANGE]
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(data)[:-9])
    assert error_of(tmp_path / "cut.csv.gz").partition("; ")[0] == f"{tmp_path}/cut.csv.gz: is cut off or damaged"


def test_messages_may_be_a_text_in_json(tmp_path: Path) -> None:
    messages = json.dumps([{"role": role, "content": content} for role, content in EXCHANGE])
    assert conversations(write_csv(tmp_path / "a.csv", [["id", "messages"], ["1", messages]])) == [EXCHANGE]


def test_rows_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    long = b"x" * 200_000
    file.write_bytes(b"question,answer\nWho?,Ida.\nonly\n,\n%s,x\nWhy?,So.,more\nNo\xff,x\n" % long)
    assert conversations(file) == [[("user", "Who?"), ("assistant", "Ida.")], [("user", "Why?"), ("assistant", "So.")]]
    skipped = [item for item in read_imports(file) if isinstance(item, Skipped)]
    assert [(item.where, item.reason) for item in skipped] == [
        (f"{file}:3", "a row without a conversation"),
        (f"{file}:4", "a conversation without text"),
        (f"{file}:5", "a field that is too long"),
        (f"{file}:7", "a lone surrogate (half a character, or a byte that is not UTF-8) in a user message"),
    ]


@pytest.mark.parametrize(
    "text", ["date,amount\n1,2\n", "question\nWho?\n", "\nquestion,answer\n", f"{'x' * 200_000}\n"]
)
def test_other_tables_are_in_no_known_format(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert "in no format that can be read" in error_of(tmp_path / "a.csv")


def test_a_file_without_quotation_marks_around_fields_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('question,answer\n"Why?,So."\nWho?,"Ida\n')
    document = file_document(file)
    assert list(read_csv(document, read_head(document), is_quoted=False)) == [
        Record({"question": '"Why?', "answer": 'So."'}, f"{file}:2"),
        Record({"question": "Who?", "answer": '"Ida'}, f"{file}:3"),
    ]


FIELD = st.sampled_from(("question", "answer", "a", '"', ",", ";", "\t", "\n", "\r", "\r\n", "\0", "ä", "\ufeff"))


@settings(max_examples=60, deadline=None)
@given(st.lists(FIELD, max_size=20).map("".join))
def test_a_damaged_file_never_raises_another_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.csv"
        path.write_bytes(f"question,answer{text}".encode())
        with contextlib.suppress(UserError):
            list(read_imports(path))
