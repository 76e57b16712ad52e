"""Rows of Parquet files, alone, in folders and in zips."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import UserError
from mlx_personal.importers import Skipped, read_imports
from tests.support.imports import conversations, skip_reasons

EXCHANGE = [("user", "When is the pear ripe?"), ("assistant", "In September.")]
MESSAGES = [{"role": role, "content": content} for role, content in EXCHANGE]


def write_parquet(file: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    """Write a Parquet file, and return its path."""
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), file, **options)
    return file


def test_rows_of_every_form_are_read(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"messages": MESSAGES}, {"messages": []}]
    file = write_parquet(tmp_path / "train-00000-of-00001.parquet", rows)
    assert conversations(file) == [EXCHANGE]
    assert [item for item in read_imports(file) if isinstance(item, Skipped)] == [
        Skipped(f"{file}:2", "a conversation without text", "training-set")
    ]
    write_parquet(tmp_path / "test-00000-of-00001.parquet", rows)
    write_parquet(tmp_path / "more.parquet", [{"instruction": EXCHANGE[0][1], "input": None, "output": EXCHANGE[1][1]}])
    assert conversations(tmp_path) == [EXCHANGE] * 2
    assert "the test split of a data set" in skip_reasons(tmp_path)


def test_a_parquet_file_in_a_zip_is_read(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", [{"messages": MESSAGES}])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(file, "a.parquet")
    assert conversations(tmp_path / "a.zip") == [EXCHANGE]


def test_a_damaged_file_is_skipped_with_one_reason(tmp_path: Path) -> None:
    rows = [{"prompt": "x" * 500, "completion": "y" * 500} for _ in range(1000)]
    options = {"row_group_size": 100, "compression": "none", "use_dictionary": False, "write_statistics": False}
    file = write_parquet(tmp_path / "a.parquet", rows, **options)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"a\.parquet: is a damaged Parquet file; export it again"):
        list(read_imports(file))
    start = len(data) // 2
    file.write_bytes(data[:start] + b"\xff" * 60_000 + data[start + 60_000 :])
    assert skip_reasons(file) == ["a damaged Parquet file from here on"]
    assert 100 <= len(conversations(file)) <= 600


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_parquet(tmp_path / "a.parquet", [{"messages": MESSAGES}])
    (tmp_path / "b.jsonl").write_text('{"prompt": "When is the pear ripe?", "completion": "In September."}')
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"a\.parquet: Parquet files need pyarrow.*pip install 'mlx-personal\[study\]'"):
        list(read_imports(file))
    assert conversations(tmp_path) == [EXCHANGE]
    assert skip_reasons(tmp_path) == ["Parquet files need pyarrow, which is not installed"]
