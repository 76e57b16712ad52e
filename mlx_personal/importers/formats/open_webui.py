"""Open WebUI: its JSON exports, single chats, feedback, and its SQLite database.

A chat is a tree of messages. In the database, it is in the JSON column `chat.chat` or, since 2026, in the table
`chat_message`. The answer's text contains its thoughts and tool calls as `<details>` elements.
"""

from __future__ import annotations

import html
import re
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlx_personal.errors import UserError
from mlx_personal.importers.conversation import Conversation, Rating, Skipped, Turn, role_of
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of, text_of_parts
from mlx_personal.importers.formats.branches import read_branch
from mlx_personal.importers.formats.table_rows import json_value, read_rows
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO
from mlx_personal.importers.json_records import read_records

_NAME: Final = "open-webui"
# A chat that was shared is stored a second time, for a user of this name.
_OWN: Final = "WHERE COALESCE(user_id, '') NOT LIKE 'shared-%'"
_OTHER_USER: Final = "a chat of another user"
_DETAILS: Final = re.compile(
    r'<details\s+type="(?P<type>reasoning|tool_calls|code_interpreter)"(?P<attributes>[^>]*)>.*?(?:</details>|\Z)',
    re.DOTALL,
)
_RESULT: Final = re.compile(r'\sresult="([^"]*)"')
# Columns of the table of messages, and the keys of the same values in the JSON column.
_MESSAGE_COLUMNS: Final = {
    "parent_id": "parentId",
    "role": "role",
    "content": "content",
    "model_id": "model",
    "files": "files",
    "error": "error",
    "created_at": "timestamp",
}
_JSON_COLUMNS: Final = ("content", "files", "error")


class OpenWebUIImporter:
    """Reads the chats of Open WebUI."""

    name = _NAME
    refuses = False
    side_files: frozenset[str] = frozenset()

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file was written by Open WebUI."""
        if head.kind == "sqlite":
            has_messages = head.has("chat.chat") or head.has("chat_message.chat_id")
            return CERTAIN if has_messages and head.has("chat.id", "chat.user_id") else NO
        if not head.is_json:
            return NO
        chats = ("chat.history.messages", "history.messages", "snapshot.chat.chat.history")
        return CERTAIN if any(head.has(path) for path in chats) else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the chats of a file."""
        if head.kind == "sqlite":
            with document.open_database() as connection:
                yield from _read_database(connection, document, head)
            return
        owner = ""
        for record in read_records(document, head):
            if isinstance(record, Skipped):
                yield record
                continue
            value = as_mapping(record.value)
            user = text_of(value.get("user_id"))
            owner = owner or user
            if user not in ("", owner):
                yield Skipped(record.where, _OTHER_USER, _NAME)
                continue
            ratings = _ratings([value])
            snapshot = as_mapping(as_mapping(value.get("snapshot")).get("chat"))
            yield _conversation(snapshot or value, record.where, ratings)


def _read_database(connection: sqlite3.Connection, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
    users = connection.execute(f"SELECT COUNT(DISTINCT user_id) FROM chat {_OWN}").fetchone()[0]
    if users > 1:
        what = f"contains the chats of {users} people, of whom only one can agree"
        raise UserError(what, document.where, "export your own chats in the settings of Open WebUI")
    ratings: dict[str, Rating] = {}
    if head.has("feedback.data", "feedback.meta"):
        rows = read_rows(connection, head, "feedback", ("data", "meta"))
        ratings = _ratings({key: json_value(row[key]) for key in ("data", "meta")} for row in rows)
    columns = ("id", "title", "chat", "created_at")
    for number, row in enumerate(read_rows(connection, head, "chat", columns, f"{_OWN} ORDER BY created_at, id"), 1):
        where = f"{document.where}:{number}"
        value = {**dict(row), "chat": json_value(row["chat"])}
        stored = _stored_messages(connection, head, text_of(row["id"]))
        if value["chat"] is None and row["chat"] is not None and not stored:
            yield Skipped(where, "a chat that is not JSON", _NAME, is_damaged=True)
            continue
        yield _conversation(value, where, ratings, stored)


def _stored_messages(connection: sqlite3.Connection, head: Head, chat_id: str) -> dict[str, dict[str, Any]]:
    """Return the messages of a chat in the table of messages, with the keys of the JSON column."""
    if not head.has("chat_message.chat_id"):
        return {}
    messages = {}
    columns = ("id", *_MESSAGE_COLUMNS)
    rest = "WHERE chat_id = ? ORDER BY created_at, id"
    for row in read_rows(connection, head, "chat_message", columns, rest, (chat_id,)):
        message = {}
        for column, key in _MESSAGE_COLUMNS.items():
            value = json_value(row[column]) if column in _JSON_COLUMNS else row[column]
            if value is not None:
                message[key] = value
        messages[text_of(row["id"]).removeprefix(f"{chat_id}-")] = message
    return messages


def _ratings(feedback: Any) -> dict[str, Rating]:
    """Return ratings by the ids of the messages."""
    ratings: dict[str, Rating] = {}
    for row in feedback:
        rating = _rating(as_mapping(as_mapping(row).get("data")).get("rating"))
        message = as_mapping(as_mapping(row).get("meta")).get("message_id")
        if rating is not None and isinstance(message, str):
            ratings[message] = rating
    return ratings


def _rating(value: object) -> Rating | None:
    """Return the rating that Open WebUI stores as 1 or -1."""
    return {"1": "good", "-1": "bad"}.get(str(value))  # type: ignore[return-value]


def _conversation(
    value: Mapping[str, Any], where: str, ratings: Mapping[str, Rating], stored: Mapping[str, Any] | None = None
) -> Conversation | Skipped:
    chat = as_mapping(value.get("chat")) or value
    history = as_mapping(chat.get("history"))
    messages = {key: as_mapping(message) for key, message in as_mapping(history.get("messages")).items()}
    for key, message in (stored or {}).items():
        messages[key] = {**messages.get(key, {}), **message}
    if not messages:
        messages = _chain(as_list(chat.get("messages")))
    if not messages:
        return Skipped(where, "a chat without messages", _NAME)
    branch = read_branch(
        {key: text_of(message.get("parentId")) or None for key, message in messages.items()},
        {key: as_time(message.get("timestamp")) for key, message in messages.items()},
        history.get("currentId"),
        lambda key: _turns(messages[key], ratings.get(key)),
    )
    system = text_of(as_mapping(chat.get("params")).get("system"))
    return Conversation(
        (Turn("system", system), *branch.turns) if system.strip() else branch.turns,
        _NAME,
        where,
        id=text_of(value.get("id")) or text_of(chat.get("id")),
        title=text_of(value.get("title")) or text_of(chat.get("title")),
        time=as_time(value.get("created_at")) or as_time(chat.get("timestamp")),
        left_behind=branch.left_behind,
    )


def _chain(messages: Any) -> dict[str, Mapping[str, Any]]:
    """Return the messages of a chat without a tree, each after the one before it."""
    return {
        str(number): {**as_mapping(message), "parentId": str(number - 1) if number else None}
        for number, message in enumerate(messages)
    }


def _turns(message: Mapping[str, Any], rating: Rating | None) -> list[Turn]:
    """Return the turns of a message: of an answer also its tool calls and their results, the answer last."""
    role = role_of(message.get("role"))
    if role is None:
        return []
    time = as_time(message.get("timestamp"))
    text, left_out = text_of_parts(message.get("content"))
    for file in as_list(message.get("files")):
        kind = "image" if as_mapping(file).get("type") == "image" else "file"
        left_out[kind] = left_out.get(kind, 0) + 1
    if role != "assistant":
        return [Turn(role, text, time=time, left_out=left_out)]
    rating = rating or _rating(as_mapping(message.get("annotation")).get("rating"))
    before, text = _split(text if not message.get("error") else "")
    answer = Turn(
        role,
        text,
        time=time,
        model=text_of(message.get("model")),
        rating=rating,
        rating_source="rating" if rating else "",
        left_out=left_out,
    )
    return [*before, answer]


def _split(text: str) -> tuple[list[Turn], str]:
    """Return the turns of tool calls and results in an answer, and the text after them, without thoughts."""
    turns: list[Turn] = []
    rest, position = "", 0
    for match in _DETAILS.finditer(text):
        rest += text[position : match.start()]
        position = match.end()
        if match["type"] != "reasoning":
            turns.append(Turn("assistant", rest.strip(), calls_tool=True))
            rest = ""
            result = _RESULT.search(match["attributes"])
            if result:
                turns.append(Turn("tool", html.unescape(result[1])))
    return turns, (rest + text[position:]).strip()
