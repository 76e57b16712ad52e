"""The activity history of Microsoft Copilot: a CSV file from the privacy dashboard of a Microsoft account.

The rows begin with the latest message, and a question has the same time as its answer, so their order is turned around.
There are no ids: messages in a row with the same title are a conversation.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mlx_personal.importers.conversation import Conversation, Skipped, Turn
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_time
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO
from mlx_personal.importers.streams import Utf8Stream

_APP: Final = "copilot"
_COLUMNS: Final = ["conversation", "time", "author", "message"]
_ROLES: Final = {"human": "user", "ai": "assistant"}


@dataclass(frozen=True)
class _Row:
    """A message, and the title of its conversation."""

    where: str
    title: str
    turn: Turn


class CopilotImporter:
    """Reads the activity history of Microsoft Copilot."""

    name = _APP
    refuses = False
    side_files: frozenset[str] = frozenset()

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is an activity history of Copilot."""
        first = head.text.lstrip("\ufeff").partition("\n")[0]
        columns = [column.strip().strip('"').lower() for column in first.split(",")]
        return CERTAIN if head.kind == "text" and columns[:4] == _COLUMNS else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the conversations of a file."""
        rows: list[_Row] = []
        for item in itertools.chain(_read_rows(document, head.encoding), [None]):
            if isinstance(item, Skipped):
                yield item
                continue
            if rows and (item is None or item.title != rows[-1].title):
                turns = tuple(row.turn for row in reversed(rows))
                yield Conversation(turns, _APP, rows[-1].where, title=rows[0].title, time=turns[0].time)
                rows = []
            if item is not None:
                rows.append(item)


def _read_rows(document: Document, encoding: str) -> Iterator[_Row | Skipped]:
    with document.open() as stream:
        text = io.TextIOWrapper(io.BufferedReader(Utf8Stream(stream, encoding)), "utf-8", "replace", newline="")
        reader = csv.reader(text)
        next(reader, None)
        while True:
            where = f"{document.where}:{reader.line_num + 1}"
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error:  # a longer field than the module reads
                yield Skipped(where, "a message that is too long", _APP)
                continue
            role = _ROLES.get(row[2].strip().lower()) if len(row) >= len(_COLUMNS) else None
            if role is None:
                yield Skipped(where, "a row without a known author", _APP)
            else:
                yield _Row(where, row[0].strip(), Turn(role, row[3].strip(), as_time(row[1])))
