"""Read the rows of CSV and TSV files, whose first line names the columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Final, Literal

from mlx_personal.importers.conversation import Skipped
from mlx_personal.importers.document import Document
from mlx_personal.importers.head import Head
from mlx_personal.importers.json_records import Record

_SUFFIXES: Final = (".csv", ".tsv")
# Spreadsheets write semicolons where the comma is the decimal separator.
_DELIMITERS: Final = ",;\t"
# A longer first line names no columns.
_MAX_HEADER_CHARS: Final = 10_000


def csv_columns(head: Head) -> frozenset[str]:
    """Return the names of the columns of a CSV or TSV file in lower case; none of another file.

    Args:
        head: The beginning of the file.
    """
    is_csv = head.kind == "text" and head.name.lower().removesuffix(".gz").endswith(_SUFFIXES)
    return frozenset(_header(head)[0]) if is_csv else frozenset()


def read_csv(document: Document, head: Head, is_quoted: bool = True) -> Iterator[Record | Skipped]:
    """Yield the rows of a CSV or TSV file.

    Args:
        document: The file.
        head: Its beginning.
        is_quoted: Whether its fields may be quoted.

    Yields:
        Each row as an object, whose keys are in lower case, or why it cannot be read.

    Raises:
        UserError: If the file cannot be read.
    """
    columns, delimiter = _header(head)
    # Bytes that are not UTF-8 become lone surrogates, which no message accepts: one row is lost instead of a file.
    errors = "surrogateescape" if head.encoding.startswith("utf-8") else "replace"
    with document.open() as stream, io.TextIOWrapper(stream, head.encoding, errors, newline="") as text:
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE
        lines = csv.reader(text, delimiter=delimiter, quoting=quoting)
        next(lines, None)
        while True:
            where = f"{document.where}:{lines.line_num + 1}"
            try:
                line = next(lines)
            except StopIteration:
                return
            except csv.Error:  # a longer field than the module reads
                yield Skipped(where, "a field that is too long", is_damaged=True)
                continue
            if line:
                yield Record(dict(zip(columns, line, strict=False)), where)


def _header(head: Head) -> tuple[list[str], str]:
    """Return the names of the columns, and the character between them."""
    first = head.text[:_MAX_HEADER_CHARS].lstrip("\ufeff").splitlines()[0]
    delimiter = max(_DELIMITERS, key=first.count)
    return [name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter), [])], delimiter
