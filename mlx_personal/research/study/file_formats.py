"""Read the rows of data files: JSON, JSON Lines, CSV and Parquet."""

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
from typing import Any, Final

from mlx_personal.errors import UserError, escape_surrogates, from_os_error
from mlx_personal.importers import Skipped
from mlx_personal.importers.json_records import read_json_lines

FILE_FORMATS: Final = (".json", ".jsonl", ".csv", ".parquet")
_PARQUET_BATCH_SIZE: Final = 1024


def read_rows(path: Path, csv_quoting: bool = True) -> Iterator[tuple[str, Any] | Skipped]:
    """Yield the rows of a data file. All formats except `.json` and gzipped files are read incrementally.

    A `.json` file may hold a list of rows, an object of equally long columns, an object of named rows, or one row per
    line. `.json`, `.jsonl` and `.csv` may be gzipped (`.gz`).

    Args:
        path: The file.
        csv_quoting: Whether a CSV file quotes its fields.

    Yields:
        (location, row), or an `Skipped`.

    Raises:
        UserError: If the file is missing, damaged or of another format, or if Parquet needs a library that is missing.
    """
    check_readable(path)
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
        return
    with _decompressed(path) as plain:
        file_format = _file_format(path)
        if file_format == ".csv":
            rows = _read_csv(plain, csv_quoting)
        else:
            rows = _read_json_lines(plain) if file_format == ".jsonl" else _read_json(plain)
        for row in rows:
            if isinstance(row, Skipped):
                yield Skipped(f"{escape_surrogates(path)}{row.where}", row.reason)
            else:
                yield f"{escape_surrogates(path)}{row[0]}", row[1]


def check_readable(path: Path) -> None:
    """Check by its name whether a file can be read, before it is downloaded.

    Raises:
        UserError: If the file is a folder or of another format, or if Parquet needs a library that is missing.
    """
    if path.is_dir():
        raise UserError("is a folder, not a file", path, "name one file in it")
    if _file_format(path) not in FILE_FORMATS or path.name.endswith(".parquet.gz"):
        formats = ", ".join(FILE_FORMATS)
        raise UserError("this file format cannot be read", path, f"convert it to one of {formats}, or rename it")
    if path.suffix == ".parquet":
        _import_pyarrow()


def _file_format(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix


@contextmanager
def _decompressed(path: Path) -> Iterator[Path]:
    """Yield the file itself, or a decompressed copy if it is gzipped."""
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


# The readers below give locations within the file: ":3" for a line, " row 3" where there are no lines.


def _read_json_lines(path: Path) -> Iterator[tuple[str, Any] | Skipped]:
    for row in read_json_lines(path):
        location = f":{row.where.rpartition(':')[2]}"
        yield Skipped(location, row.reason) if isinstance(row, Skipped) else (location, row.value)


def _read_json(path: Path) -> Iterator[tuple[str, Any] | Skipped]:
    try:
        document = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise from_os_error(error, path) from error
    except (ValueError, RecursionError):  # not one JSON value: the file may hold one row per line
        yield from _read_json_lines(path)
        return
    for number, row in enumerate(_json_rows(document), 1):
        yield f" row {number}", row


def _json_rows(document: Any) -> list[Any]:
    """Return the rows of one JSON value."""
    if isinstance(document, list):
        return document
    if isinstance(document, dict) and document:
        values = list(document.values())
        if len(values) > 1 and all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
            return [dict(zip(document, row, strict=True)) for row in zip(*values, strict=True)]
        if all(isinstance(value, dict) for value in values):
            return values
    return [document]


def _read_csv(path: Path, quoting: bool) -> Iterator[tuple[str, Any] | Skipped]:
    try:
        # Bytes that are not UTF-8 become lone surrogates, which no message accepts: one bad row instead of a bad file.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file, quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE)
            while True:
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield Skipped(f":{rows.line_num}", f"not CSV ({error})")
                    continue
                yield f":{rows.line_num}", row
    except OSError as error:
        raise from_os_error(error, path) from error


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    arrow = _import_pyarrow()
    number = 0
    try:
        with path.open("rb") as opened, arrow.parquet.ParquetFile(opened) as file:
            for batch in file.iter_batches(_PARQUET_BATCH_SIZE):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{escape_surrogates(path)} row {number}", row
    except (arrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise from_os_error(error, path) from error
        raise UserError("a damaged Parquet file", path, "fetch it again") from error


def _import_pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        hint = "install it (pip install 'mlx-personal[study]'), or name a local JSON Lines file"
        raise UserError("Parquet files need pyarrow", hint=hint) from error
    return pyarrow
