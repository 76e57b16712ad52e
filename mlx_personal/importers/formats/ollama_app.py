"""The Ollama desktop app: its SQLite database, of schema versions that have the tables `chats` and `messages`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

from mlx_personal.importers.conversation import Conversation, Skipped, Turn, role_of
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_time, text_of
from mlx_personal.importers.formats.table_rows import read_rows
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO

_NAME: Final = "ollama-app"
_MESSAGE_COLUMNS: Final = ("id", "role", "content", "model_name", "created_at", "tool_result")


class OllamaAppImporter:
    """Reads the chats of the Ollama desktop app."""

    name = _NAME
    refuses = False
    side_files: frozenset[str] = frozenset()

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is the database of the Ollama app."""
        columns = ("chats.id", "messages.chat_id", "messages.role", "messages.content", "messages.model_name")
        return CERTAIN if head.kind == "sqlite" and head.has(*columns) else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the chats of a database."""
        with document.open_database() as connection:
            chats = read_rows(connection, head, "chats", ("id", "title", "created_at"), "ORDER BY created_at, id")
            for number, chat in enumerate(chats, 1):
                where = f"{document.where}:{number}"
                turns = tuple(_turns(connection, head, chat["id"]))
                if not turns:
                    yield Skipped(where, "a chat without messages", _NAME)
                    continue
                yield Conversation(
                    turns, _NAME, where, text_of(chat["id"]), text_of(chat["title"]), as_time(chat["created_at"])
                )


def _turns(connection: sqlite3.Connection, head: Head, chat_id: object) -> Iterator[Turn]:
    """Yield the turns of a chat; a message that calls a tool may have text before the call."""
    calls: set[object] = set()
    if head.has("tool_calls.message_id"):
        query = "SELECT message_id FROM tool_calls JOIN messages ON messages.id = message_id WHERE chat_id = ?"
        calls = {row[0] for row in connection.execute(query, (chat_id,))}
    files: dict[object, int] = {}
    if head.has("attachments.message_id"):
        query = (
            "SELECT message_id, COUNT(*) FROM attachments JOIN messages ON messages.id = message_id"
            " WHERE chat_id = ? GROUP BY message_id"
        )
        files = {row[0]: row[1] for row in connection.execute(query, (chat_id,))}
    for row in read_rows(connection, head, "messages", _MESSAGE_COLUMNS, "WHERE chat_id = ? ORDER BY id", (chat_id,)):
        role = role_of(row["role"])
        if role is None:
            continue
        yield Turn(
            role,
            text_of(row["content"]) or (text_of(row["tool_result"]) if role == "tool" else ""),
            time=as_time(row["created_at"]),
            model=text_of(row["model_name"]) if role == "assistant" else "",
            calls_tool=role == "assistant" and row["id"] in calls,
            left_out={"file": files[row["id"]]} if row["id"] in files else {},
        )
