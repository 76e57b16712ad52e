"""The beginning of a file: what importers recognize their format by."""

from __future__ import annotations

import codecs
import io
import itertools
import json
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Final, Literal, cast

import ijson

from mlx_personal.importers.data_folder import SPLITS
from mlx_personal.importers.document import Document
from mlx_personal.importers.streams import BoundedStream, Utf8Stream
from mlx_personal.storage.foreign_database import DATABASE_MAGIC, column_names

Kind = Literal["json", "lines", "text", "sqlite", "parquet", "archive", "empty", "binary"]

HEAD_BYTES: Final = 262_144
# If the first record is longer, its keys are looked for so far into the file.
MAX_RECORD_BYTES: Final = 16_000_000
# Keys below this depth say nothing about a format, and a tree of messages has thousands of them.
_MAX_DEPTH: Final = 6
_MAX_EVENTS: Final = 20_000
_MAX_RECORD_EVENTS: Final = 500_000
_MAX_LINES: Final = 50
# A file that is one object with its conversations under one of these keys.
_WRAPPERS: Final = ("conversations", "chats", "data", "rows", "items", "train")
_RECORD_PATHS: Final = frozenset(f"{name}.item" for name in (*_WRAPPERS, *SPLITS))
# Keys of the turns of one conversation, whose list under a key above is no list of conversations.
_TURN_KEYS: Final = ("from", "role", "sender", "speaker")
# The first bytes of files that are no text. An archive is one in an archive, or of a kind that is not read.
_MAGICS: Final[tuple[tuple[bytes, Kind], ...]] = (
    (DATABASE_MAGIC, "sqlite"),
    (b"PAR1", "parquet"),
    (b"PK\x03\x04", "archive"),
    (b"\x1f\x8b", "archive"),
    (b"7z\xbc\xaf\x27\x1c", "archive"),
    (b"Rar!\x1a\x07", "archive"),
)
_TAR_MAGIC: Final = slice(257, 262), b"ustar"
_BOMS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Head:
    """The beginning of a file.

    Attributes:
        name: The file's name in its folder or zip.
        kind: `json` for one or several JSON values, `lines` for a value a line, or another kind of file.
        encoding: Encoding of its text.
        text: Its first characters; empty for a binary file.
        is_list: Whether it is one JSON list.
        wrapper: The key under which the first records are, if the file is one object with lists of them; otherwise
            empty.
        keys: Dotted paths of the keys of the first records, where `item` stands for an item of a list; of a
            database its columns as `table.column`.
        is_cut_off: Whether the text ends within the first JSON record.
    """

    name: str
    kind: Kind
    encoding: str = "utf-8"
    text: str = ""
    is_list: bool = False
    wrapper: str = ""
    keys: frozenset[str] = frozenset()
    is_cut_off: bool = False

    def has(self, *paths: str) -> bool:
        """Return whether the first records have all of these keys.

        Args:
            *paths: Dotted paths, such as `messages.item.role`.
        """
        return self.keys.issuperset(paths)

    @property
    def lists(self) -> tuple[str, ...]:
        """The keys under which the records are; empty if the file is no object with lists of them."""
        if self.wrapper in SPLITS:
            return SPLITS
        return (self.wrapper,) if self.wrapper else ()

    @property
    def base_name(self) -> str:
        """The file's name without its folder."""
        return self.name.rpartition("/")[2]

    @property
    def is_json(self) -> bool:
        """Whether the file consists of JSON values."""
        return self.kind in ("json", "lines")


def read_head(document: Document) -> Head:
    """Return the beginning of a file.

    Args:
        document: The file.

    Raises:
        UserError: If it cannot be read.
    """
    with document.open() as stream:
        data = stream.read(HEAD_BYTES) or b""
    head = head_of(data, document.name)
    if head.is_cut_off and len(data) == HEAD_BYTES:
        return _with_later_keys(head, document)
    if head.kind == "sqlite":
        with document.open_database() as connection:
            return replace(head, keys=column_names(connection))
    return head


def text_encoding(document: Document) -> str:
    """Return the encoding of a text file.

    Args:
        document: The file.

    Raises:
        UserError: If it cannot be read.
    """
    with document.open() as stream:
        return _encoding(stream.read(4) or b"")


def head_of(data: bytes, name: str) -> Head:
    """Return what is known about a file from its first bytes.

    Args:
        data: The first `HEAD_BYTES` bytes.
        name: The file's name.
    """
    for magic, kind in _MAGICS:
        if data.startswith(magic):
            return Head(name, kind)
    if data[_TAR_MAGIC[0]] == _TAR_MAGIC[1]:
        return Head(name, "archive")
    encoding = _encoding(data)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(data).lstrip("\ufeff")
    if not text.strip():
        return Head(name, "empty", encoding)
    start = text.lstrip()[:1]
    if "\0" in text[:1000] and start not in ("{", "["):
        return Head(name, "binary")
    lines = _parsed_lines(text)
    if _is_lines(text, name, lines):
        keys, is_cut_off = _record_keys([value for value in lines if value is not None]), False
        if not keys:
            keys, is_cut_off = _paths(_utf8(text))
        return Head(name, "lines", encoding, text, keys=frozenset(keys), is_cut_off=is_cut_off)
    # A text can begin with a time or a link in brackets; a list of numbers is nothing that is imported.
    first = text.lstrip()[1:].lstrip()
    if start not in ("{", "[") or (start == "[" and first and not first.startswith(("{", "[", '"', "]", "null"))):
        return Head(name, "text", encoding, text)
    paths, is_cut_off = _paths(_utf8(text))
    return _json_head(Head(name, "json", encoding, text, start == "[", is_cut_off=is_cut_off), paths)


def _with_later_keys(head: Head, document: Document) -> Head:
    """Return the beginning of a JSON file with the keys that its first record has after the text."""
    with document.open() as stream:
        start = cast(BinaryIO, BoundedStream(stream, lambda: MAX_RECORD_BYTES, EOFError))
        paths, _ = _paths(cast(BinaryIO, Utf8Stream(start, head.encoding)), _MAX_RECORD_EVENTS)
    return replace(head, keys=frozenset(paths)) if head.kind == "lines" else _json_head(head, paths)


def _json_head(head: Head, paths: set[str]) -> Head:
    """Return the beginning of a JSON file with the keys of its first records."""
    wrapper = "" if head.is_list else _wrapper(paths)
    prefix = "item." if head.is_list else f"{wrapper}.item." if wrapper else ""
    keys = {path.removeprefix(prefix) for path in paths if path.startswith(prefix)}
    return replace(head, wrapper=wrapper, keys=frozenset(keys))


def _utf8(text: str) -> BinaryIO:
    return io.BytesIO(text.lstrip().encode("utf-8", "replace"))


def _encoding(data: bytes) -> str:
    """Return the encoding of a text: by its byte order mark, or by the zeros of UTF-16 and UTF-32 in most letters."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return encoding
    zeros = tuple(byte == 0 for byte in data[:4])
    if zeros == (False, True, True, True):
        return "utf-32-le"
    if zeros == (True, True, True, False):
        return "utf-32-be"
    if zeros[:2] == (False, True):
        return "utf-16-le"
    if zeros[:2] == (True, False):
        return "utf-16-be"
    return "utf-8"


def _parsed_lines(text: str) -> list[Any]:
    """Return the JSON value of each of the first complete lines; None for a line that is none."""
    lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
    if len(text) >= HEAD_BYTES // 4:  # the last line may be cut off
        lines = lines[:-1]
    values: list[Any] = []
    for line in lines[:_MAX_LINES]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        values.append(value if isinstance(value, dict | list) and value else None)
    return values


def _is_lines(text: str, name: str, lines: list[Any]) -> bool:
    """Return whether a file has a JSON value on each line.

    Args:
        text: Its beginning.
        name: Its name.
        lines: The values of its first lines; empty if the first line is longer than the text.
    """
    found = sum(value is not None for value in lines)
    is_open = text.lstrip().startswith(("[", "{"))
    if name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson")):
        # Of a printed value only few lines are values.
        return not (is_open and lines) or lines[0] is not None or 2 * found >= len(lines)
    return len(lines) > 1 and found > 0 and (lines[0] is not None or not is_open)


def _record_keys(records: list[Any]) -> set[str]:
    """Return the paths of the keys of parsed records."""
    paths: set[str] = set()
    for record in records:
        pending = [("", record, 0)]
        while pending and len(paths) < _MAX_EVENTS:
            prefix, value, depth = pending.pop()
            if depth > _MAX_DEPTH:
                continue
            if isinstance(value, dict):
                for key, child in value.items():
                    path = f"{prefix}.{key}" if prefix else str(key)
                    paths.add(path)
                    pending.append((path, child, depth + 1))
            elif isinstance(value, list):
                path = f"{prefix}.item" if prefix else "item"
                pending += [(path, child, depth + 1) for child in value[:20]]
    return paths


def _paths(stream: BinaryIO, max_events: int = _MAX_EVENTS) -> tuple[set[str], bool]:
    """Return the paths of the keys at the beginning of a JSON text, and whether its first record is cut off."""
    paths: set[str] = set()
    # For each open list and object the path of what is in it. Paths of deep values are not made: they would be as long
    # as the text.
    open_paths: list[tuple[str, bool]] = []
    key_path = ""
    is_cut_off = True
    try:
        events = ijson.basic_parse(stream, multiple_values=True)
        for event, value in itertools.islice(events, max_events):
            path, is_list = open_paths[-1] if open_paths else ("", False)
            if len(open_paths) > _MAX_DEPTH + 1:
                path = key_path = ""
            elif event == "map_key":
                key_path = f"{path}.{value}" if path else value
                paths.add(key_path)
            if event in ("start_map", "start_array"):
                inner = (f"{path}.item" if path else "item") if is_list else key_path if open_paths else ""
                open_paths.append((inner, event == "start_array"))
            elif event in ("end_map", "end_array"):
                open_paths.pop()
                is_in_list = len(open_paths) == 1 and open_paths[0][1]
                if not open_paths or is_in_list or (len(open_paths) == 2 and path in _RECORD_PATHS):
                    is_cut_off = False
                if not is_cut_off and max_events > _MAX_EVENTS:
                    break
    except (ijson.JSONError, ValueError, EOFError):  # the text is cut off, or has a number with too many digits
        pass
    return paths, is_cut_off


def _wrapper(paths: set[str]) -> str:
    """Return the key under which a file that is one object has a list of conversations; empty if there is none."""
    has_splits_only = {path.partition(".")[0] for path in paths} <= set(SPLITS)
    for name in SPLITS if has_splits_only else _WRAPPERS:
        children = {path.split(".")[2] for path in paths if path.startswith(f"{name}.item.")}
        if children and not (children & set(_TURN_KEYS) and "messages" not in children and "mapping" not in children):
            return name
    return ""
