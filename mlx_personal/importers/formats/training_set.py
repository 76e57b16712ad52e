"""Training sets: rows of messages, instructions, preferences or texts, in JSON, JSON Lines, CSV, TSV or Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any, Final

from mlx_personal.importers.conversation import Conversation, Skipped, Turn
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, text_of
from mlx_personal.importers.formats.chat_rows import (
    CHAT_KEYS,
    chat_turns,
    is_excluded,
    is_message,
    time_of,
    turns_of_messages,
)
from mlx_personal.importers.formats.chat_text import turns_of_text
from mlx_personal.importers.formats.csv_rows import csv_columns, read_csv
from mlx_personal.importers.formats.instruction_rows import ANSWER_KEYS, QUESTION_KEYS, instruction_turns
from mlx_personal.importers.formats.parquet import read_parquet
from mlx_personal.importers.formats.preference_rows import preference_turns
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import LIKELY, NO, POSSIBLE
from mlx_personal.importers.json_records import Record, read_records

_FALLBACK: Final = 0.1
# Shorter ids are numbers of rows, which other files have too.
_MIN_ID_CHARS: Final = 16


class TrainingSetImporter:
    """Reads the rows of training sets. Rows of different forms may be in one file."""

    name = "training-set"
    refuses = False
    side_files = frozenset({"dataset_infos.json", "dataset_dict.json", "state.json", "README.md"})

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is a training set."""
        if head.kind == "parquet":
            return LIKELY
        if columns := csv_columns(head):
            return POSSIBLE if _is_instruction(columns) or columns & {*CHAT_KEYS, "chosen"} else NO
        if not head.is_json:
            return NO
        # A line may be a list of rows, and a row may be wrapped by the dataset viewer.
        keys = {key.removeprefix("item.").removeprefix("row.") for key in head.keys}
        if any(_has_messages(keys, f"{key}.item.") for key in CHAT_KEYS) or _has_messages(head.keys, "item."):
            return LIKELY
        if _is_one_conversation(head) or {"chosen", "rejected"} <= keys or "preferred_output" in keys:
            return LIKELY
        if _is_instruction(keys) or keys & {"text", *CHAT_KEYS}:
            return POSSIBLE
        # Lines that no other importer knows are at least counted.
        return _FALLBACK if head.kind == "lines" else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the conversations of a file."""
        for row in read_rows(document, head):
            yield row if isinstance(row, Skipped) else conversation_of(row)


def read_rows(document: Document, head: Head, is_csv_quoted: bool = True) -> Iterator[Record | Skipped]:
    """Yield the rows of a training set, whether they contain a conversation or not.

    Args:
        document: The file.
        head: Its beginning.
        is_csv_quoted: Whether the fields of a CSV file may be quoted.

    Yields:
        Each row, which may be a list of messages, or why it cannot be read.

    Raises:
        UserError: If the file cannot be read.
    """
    if head.kind == "parquet":
        yield from read_parquet(document)
    elif csv_columns(head):
        yield from read_csv(document, head, is_csv_quoted)
    elif _is_one_conversation(head):
        yield from _one_conversation(document, read_records(document, head))
    else:
        for record in read_records(document, head):
            rows = () if isinstance(record, Skipped) else as_list(record.value)
            if isinstance(record, Skipped) or not rows or any(map(is_message, rows)):
                yield record
            else:  # a line of rows
                yield from (Record(row, record.where) for row in rows)


def conversation_of(record: Record) -> Conversation | Skipped:
    """Return the conversation of a row, or why it has none.

    Args:
        record: The row: an object, or a list of messages.
    """
    app, value, where = TrainingSetImporter.name, record.value, record.where
    if isinstance(value, list):
        return Conversation(tuple(turns_of_messages(value)), app, where)
    row = as_mapping(value)
    if not row:
        return Skipped(where, "a row that is not an object", app)
    row = as_mapping(row.get("row")) or row  # the form of the Hugging Face dataset viewer
    if is_excluded(row):
        return Skipped(where, "a row with weight 0", app)
    turns = _turns(row)
    if isinstance(turns, str):
        return Skipped(where, turns, app)
    identifier = text_of(row.get("conversation_id"))
    return Conversation(
        turns,
        app,
        where,
        id=identifier if len(identifier) >= _MIN_ID_CHARS else "",
        title=text_of(row.get("title")),
        time=time_of(row),
    )


def _has_messages(keys: Set[str], prefix: str) -> bool:
    return f"{prefix}role" in keys or {f"{prefix}from", f"{prefix}value"} <= keys


def _is_instruction(keys: Set[str]) -> bool:
    return bool(keys & set(QUESTION_KEYS) and keys & set(ANSWER_KEYS))


def _is_one_conversation(head: Head) -> bool:
    """Return whether a file is the list of messages of one conversation."""
    return head.kind == "json" and head.is_list and (head.has("role", "content") or head.has("from", "value"))


def _one_conversation(document: Document, records: Iterator[Record | Skipped]) -> Iterator[Record | Skipped]:
    messages = []
    for record in records:
        if isinstance(record, Skipped):
            yield record
        else:
            messages.append(record.value)
    yield Record(messages, document.where)


def _turns(row: Mapping[str, Any]) -> tuple[Turn, ...] | str:
    """Return the turns of a row, or why it has none."""
    for turns_of_row in (preference_turns, chat_turns, instruction_turns):
        turns = turns_of_row(row)
        if turns is not None:
            return turns
    if isinstance(row.get("text"), str):
        return turns_of_text(row["text"]) or "a text without turns"
    return "a row without a conversation"
