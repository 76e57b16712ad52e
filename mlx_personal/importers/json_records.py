"""Read the records of a JSON file one after the other: a list, a value a line, or one object.

A record that is damaged is yielded as skipped, and the rest is read: of a value a line all others, of a list those
before it, because the end of a damaged item cannot be known. The test split of an object with several splits is left
out, as that of a data folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlx_personal.importers.conversation import Skipped
from mlx_personal.importers.data_folder import TEST_SPLIT, TEST_SPLIT_REASON
from mlx_personal.importers.document import Document
from mlx_personal.importers.head import Head, text_encoding
from mlx_personal.importers.json_values import CUT_OFF, DamagedValueError, decode_values
from mlx_personal.importers.paths import file_document
from mlx_personal.importers.streams import Utf8Stream

# Far above any conversation; longer lines are skipped instead of filling the memory.
MAX_LINE_BYTES: Final = 64_000_000
_CHUNK_BYTES: Final = 1_048_576


@dataclass(frozen=True)
class Record:
    """A JSON value of a file.

    Attributes:
        value: The value.
        where: File and position in it.
    """

    value: Any
    where: str


def read_records(document: Document, head: Head) -> Iterator[Record | Skipped]:
    """Yield the records of a JSON file.

    Args:
        document: The file.
        head: Its beginning.

    Yields:
        Each value, or why it cannot be read.

    Raises:
        UserError: If the file cannot be read.
    """
    if head.kind == "lines":
        yield from _read_lines(document, head)
        return
    number, is_test_skipped = 0, False
    with document.open() as stream:
        try:
            for key, value in decode_values(stream, head.encoding, head.is_list, head.lists):
                number += 1
                where = f"{document.where}:{number}" if head.is_list or key else document.where
                if key != TEST_SPLIT:
                    yield Record(value, where)
                elif not is_test_skipped:
                    is_test_skipped = True
                    yield Skipped(where, TEST_SPLIT_REASON)
        except DamagedValueError as error:
            rest = "" if error.reason == CUT_OFF else "; the rest of the file was not read"
            yield Skipped(f"{document.where}:{number + 1}", f"{error.reason}{rest}", is_damaged=True)


def read_json_lines(path: Path | str) -> Iterator[Record | Skipped]:
    """Yield the JSON value of each line of a file that is no import; blank lines are skipped.

    Args:
        path: The file.

    Yields:
        Each value, or why a line has none.

    Raises:
        UserError: If the file cannot be read or is a folder.
    """
    document = file_document(Path(path))
    yield from _read_lines(document, Head(document.name, "lines", text_encoding(document)))


def read_lines(document: Document, encoding: str) -> Iterator[tuple[int, bytes | None]]:
    r"""Yield the lines of a text file with their numbers.

    Lines end with `\n`, `\r\n` or `\r` only, because JSON texts may contain U+2028 and similar characters.

    Args:
        document: The file.
        encoding: Its encoding.

    Yields:
        Number and UTF-8 text of each line without its end; None for a line of over `MAX_LINE_BYTES`.
    """
    number, rest, is_too_long = 1, b"", False
    with document.open() as stream:
        reader: Any = stream if encoding == "utf-8" else Utf8Stream(stream, encoding)
        while chunk := reader.read(_CHUNK_BYTES):
            if chunk.endswith(b"\r"):  # the next chunk may begin with its \n
                chunk += reader.read(1)
            first, *others = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
            rest += first
            is_too_long = is_too_long or len(rest) > MAX_LINE_BYTES
            if is_too_long:
                rest = b""
            for line in others:
                yield number, None if is_too_long else rest
                number, rest, is_too_long = number + 1, line, False
    if rest or is_too_long:
        yield number, None if is_too_long else rest


def _read_lines(document: Document, head: Head) -> Iterator[Record | Skipped]:
    for number, line in read_lines(document, head.encoding):
        where = f"{document.where}:{number}"
        if line is None:
            yield Skipped(where, f"a line of over {MAX_LINE_BYTES // 1_000_000} MB", is_damaged=True)
        elif line.strip():
            yield parse_json(line, where)


def parse_json(data: bytes, where: str) -> Record | Skipped:
    """Return the JSON value of a text, or why it has none.

    Args:
        data: The text in UTF-8.
        where: File and position in it.
    """
    try:
        return Record(json.loads(data.decode("utf-8-sig").strip()), where)
    except UnicodeDecodeError:
        reason = "not UTF-8 text"
    except json.JSONDecodeError as error:
        reason = f"not JSON ({error.msg.lower()})"
    except RecursionError:
        reason = "JSON nested too deeply"
    except ValueError:  # Python reads no integer of more than 4300 digits
        reason = "a number with too many digits"
    return Skipped(where, reason, is_damaged=True)
