"""Rows of data files as the hub and its users keep them: JSON, JSON Lines, CSV and Parquet.

A row is what the file says, unread: `datasets` knows what it means.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_personal.dialogue import InvalidLine
from mlx_personal.dialogue.readers import read_json_lines
from mlx_personal.errors import UserError, encodable, from_os_error

KINDS = (".json", ".jsonl", ".csv", ".parquet")
_PARQUET_ROWS = 1024


def read_rows(path: Path, quotes: bool = True) -> Iterator[tuple[str, Any] | InvalidLine]:
    """Each row as (where, value) or a `InvalidLine`. All kinds but `.json` and the gzipped are read piece by piece.

    A `.json` file may hold a list of rows, an object of equally long columns, an object of named rows, or one row a
    line. `.gz` may follow `.json`, `.jsonl` and `.csv`. `quotes` is false for CSV that quotes nothing.

    UserError for a file that is not there, of another kind or damaged, and where Parquet needs a missing library.
    """
    check_readable(path)
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    with _unzipped(path) as plain:
        kind = _kind(path)
        rows = _csv(plain, quotes) if kind == ".csv" else _json_lines(plain) if kind == ".jsonl" else _json(plain)
        for row in rows:
            if isinstance(row, InvalidLine):
                yield InvalidLine(f"{encodable(path)}{row.where}", row.reason)
            else:
                yield f"{encodable(path)}{row[0]}", row[1]


def check_readable(path: Path) -> None:
    """UserError for a file of another kind, or that needs a missing library: ask before a gigabyte is fetched."""
    if path.is_dir():
        raise UserError("is a folder, not a file", path, "name one file in it")
    if _kind(path) not in KINDS or path.name.endswith(".parquet.gz"):
        kinds = ", ".join(KINDS)
        raise UserError("not a kind of file that can be read", path, f"rename or convert it to one of {kinds}")
    if path.suffix == ".parquet":
        _arrow()


def _kind(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix


@contextmanager
def _unzipped(path: Path) -> Iterator[Path]:
    """The file itself, or what was in it where it is gzipped."""
    if path.suffix != ".gz":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "rows"
        try:
            with gzip.open(path) as zipped, plain.open("wb") as file:
                shutil.copyfileobj(zipped, file)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError("a damaged gzip file", path, "fetch it again") from error
        except OSError as error:
            raise from_os_error(error, path) from error
        yield plain


# The readers below say where a row stands within its file: ":3" for a line, " row 3" for the others.


def _json_lines(path: Path) -> Iterator[tuple[str, Any] | InvalidLine]:
    for row in read_json_lines(path):
        where = row.where if isinstance(row, InvalidLine) else row[0]
        place = f":{where.rpartition(':')[2]}"
        yield InvalidLine(place, row.reason) if isinstance(row, InvalidLine) else (place, row[1])


def _json(path: Path) -> Iterator[tuple[str, Any] | InvalidLine]:
    try:
        whole = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise from_os_error(error, path) from error
    except (ValueError, RecursionError):  # several values: a row a line, some of them broken perhaps
        yield from _json_lines(path)
        return
    for number, row in enumerate(_listed(whole), 1):
        yield f" row {number}", row


def _listed(whole: Any) -> list[Any]:
    """The rows of one JSON value."""
    if isinstance(whole, list):
        return whole
    if isinstance(whole, dict) and whole:
        values = list(whole.values())
        if len(values) > 1 and all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
            return [dict(zip(whole, row, strict=True)) for row in zip(*values, strict=True)]
        if all(isinstance(value, dict) for value in values):
            return values
    return [whole]


def _csv(path: Path, quotes: bool) -> Iterator[tuple[str, Any] | InvalidLine]:
    try:
        # Bytes that are not UTF-8 become lone surrogates, which no message takes: one bad row, not a bad file.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
            while True:
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield InvalidLine(f":{rows.line_num}", f"not CSV ({error})")
                    continue
                yield f":{rows.line_num}", row
    except OSError as error:
        raise from_os_error(error, path) from error


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    arrow = _arrow()
    number = 0
    try:
        with path.open("rb") as opened, arrow.parquet.ParquetFile(opened) as file:
            for batch in file.iter_batches(_PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{encodable(path)} row {number}", row
    except (arrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise from_os_error(error, path) from error
        raise UserError("a damaged Parquet file", path, "fetch it again") from error


def _arrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        hint = "install it (pip install 'mlx-personal[study]'), or name a local JSON Lines file"
        raise UserError("Parquet files need pyarrow", hint=hint) from error
    return pyarrow
