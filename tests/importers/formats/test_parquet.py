"""Rows of Parquet files, alone, in folders and in zips."""

from __future__ import annotations

import gzip
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import UserError
from mlx_personal.importers import Skipped, read_imports
from mlx_personal.importers.formats import parquet
from tests.support.imports import conversations, skip_reasons, write_zip

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


@pytest.mark.parametrize("source", ["zip", "gzip", "standard input"])
def test_a_file_that_is_packed_or_piped_is_read_from_a_temporary_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    file = write_parquet(tmp_path / "a.parquet", [{"messages": MESSAGES}])
    data = file.read_bytes()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(data))
    paths = {
        "zip": write_zip(tmp_path / "a.zip", {"a.parquet": data}),
        "gzip": tmp_path / "a.parquet.gz",
        "standard input": Path("-"),
    }
    assert conversations(paths[source]) == [EXCHANGE]
    assert not list((tmp_path / "temporary").iterdir())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    monkeypatch.setattr(parquet, "MAX_MEMBER_BYTES", len(data) - 1)
    reason = "is larger than 0 GB"
    if source == "zip":  # whose other files are read
        assert skip_reasons(paths[source]) == [reason]
    else:
        with pytest.raises(UserError, match=f"{reason}; split it"):
            list(read_imports(paths[source]))
    assert not list((tmp_path / "temporary").iterdir())


def test_a_large_column_is_not_read_at_once(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    row = {"prompt": "When is the pear ripe?", "completion": "In September. " * 500}
    options = {"compression": "none", "use_dictionary": False}
    file = write_parquet(tmp_path / "a.parquet", [row] * 3000, **options)
    items = read_imports(file)
    before_bytes = pyarrow.total_allocated_bytes()
    next(items)
    assert file.stat().st_size > 20_000_000
    assert pyarrow.total_allocated_bytes() - before_bytes < 12_000_000


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
