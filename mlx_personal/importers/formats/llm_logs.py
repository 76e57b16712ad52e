"""The log database of the command `llm`, in both generations of its schema.

The older one has a row in `responses` for each prompt with its response. The newer one has a chain of `messages` with
`parts` for each thread, found from its last message by `parent_hash`. A conversation may be in both, and is then read
once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlx_personal.importers.conversation import Conversation, Skipped, Turn, role_of
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of
from mlx_personal.importers.formats.table_rows import json_value, read_rows
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO

_NAME: Final = "llm"
_THREADS: Final = ("threads.id", "threads.tip_message_hash", "messages.parent_hash", "parts.message_hash")
_RESPONSES: Final = ("responses.prompt", "responses.response", "responses.conversation_id")


class LLMLogsImporter:
    """Reads the conversations of `llm`."""

    name = _NAME
    refuses = False
    side_files: frozenset[str] = frozenset()

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is a log database of `llm`."""
        is_log = head.kind == "sqlite" and (head.has(*_THREADS) or head.has(*_RESPONSES))
        return CERTAIN if is_log else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the conversations of a database: the newer threads, then older ones that are no threads."""
        with document.open_database() as connection:
            done: set[str] = set()
            number = 0
            readers = [(_read_threads, _THREADS), (_read_loose_turns, (*_THREADS, "turns.tip_message_hash"))]
            for read, columns in [*readers, (_read_responses, _RESPONSES)]:
                if not head.has(*columns):
                    continue
                for conversation in read(connection, head, done):
                    number += 1
                    where = f"{document.where}:{number}"
                    if not conversation.turns:
                        yield Skipped(where, "a conversation without messages", _NAME)
                        continue
                    done.add(conversation.id)
                    yield Conversation(**{**vars(conversation), "where": where})


def _read_threads(connection: sqlite3.Connection, head: Head, done: set[str]) -> Iterator[Conversation]:
    columns = ("id", "name", "tip_message_hash", "datetime_utc")
    for row in read_rows(connection, head, "threads", columns, "ORDER BY datetime_utc, id"):
        if row["tip_message_hash"] is None and head.has(*_RESPONSES):
            continue  # its messages are in the older tables, if anywhere
        turns = _chain(connection, head, row["tip_message_hash"])
        yield Conversation(turns, _NAME, "", text_of(row["id"]), text_of(row["name"]), as_time(row["datetime_utc"]))


def _read_loose_turns(connection: sqlite3.Connection, head: Head, done: set[str]) -> Iterator[Conversation]:
    """Yield the prompts that belong to no thread, each as a conversation."""
    columns = ("id", "tip_message_hash", "datetime_utc")
    for row in read_rows(connection, head, "turns", columns, "WHERE thread_id IS NULL ORDER BY datetime_utc, id"):
        turns = _chain(connection, head, row["tip_message_hash"])
        yield Conversation(turns, _NAME, "", text_of(row["id"]), time=as_time(row["datetime_utc"]))


def _chain(connection: sqlite3.Connection, head: Head, tip: object) -> tuple[Turn, ...]:
    """Return the turns that lead to a message."""
    groups: list[list[Turn]] = []
    seen: set[object] = set()
    while tip is not None and tip not in seen:
        seen.add(tip)
        row = connection.execute("SELECT parent_hash, role FROM messages WHERE hash = ?", (tip,)).fetchone()
        if row is None:
            break
        groups.append(_message_turns(connection, head, tip, row["role"]))
        tip = row["parent_hash"]
    return tuple(turn for group in reversed(groups) for turn in group)


def _message_turns(connection: sqlite3.Connection, head: Head, message: object, role: object) -> list[Turn]:
    """Return the turns of a message: its text, or the results of tools in it."""
    texts: list[str] = []
    left_out: dict[str, int] = {}
    results: list[Turn] = []
    calls_tool = False
    columns = ("type", "text", "payload")
    for part in read_rows(connection, head, "parts", columns, "WHERE message_hash = ? ORDER BY position", (message,)):
        kind, payload = part["type"], as_mapping(json_value(part["payload"]))
        if kind == "text":
            texts.append(text_of(part["text"]) or _text_of_pieces(connection, head, payload))
        elif kind == "tool_call":
            calls_tool = True
        elif kind == "tool_result":
            results.append(Turn("tool", text_of(payload.get("output"))))
        elif kind == "attachment":
            left_out["file"] = left_out.get("file", 0) + 1
    known_role = role_of(role)
    if known_role in (None, "tool"):
        return results
    model, time = "", None
    if known_role == "assistant" and head.has("turns.tip_message_hash"):
        query = "SELECT model, datetime_utc FROM turns WHERE tip_message_hash = ? ORDER BY datetime_utc LIMIT 1"
        turn = connection.execute(query, (message,)).fetchone()
        if turn is not None:
            model, time = text_of(turn["model"]), as_time(turn["datetime_utc"])
    text = "\n".join(text for text in texts if text)
    if results and not text:
        return results
    is_call = calls_tool and known_role == "assistant"
    return [*results, Turn(str(known_role), text, time=time, model=model, calls_tool=is_call, left_out=left_out)]


def _text_of_pieces(connection: sqlite3.Connection, head: Head, payload: Mapping[str, Any]) -> str:
    """Return a text that is stored as pieces, of which some are fragments that other texts share."""
    texts: list[str] = []
    for piece in map(as_mapping, as_list(payload.get("text_ref"))):
        if isinstance(piece.get("fragment"), int) and head.has("fragments.content"):
            query = "SELECT content FROM fragments WHERE id = ?"
            row = connection.execute(query, (piece["fragment"],)).fetchone()
            texts.append("" if row is None else text_of(row["content"]))
        else:
            texts.append(text_of(piece.get("literal")))
    return "".join(texts)


def _read_responses(connection: sqlite3.Connection, head: Head, done: set[str]) -> Iterator[Conversation]:
    columns = ("id", "model", "prompt", "system", "response", "conversation_id", "datetime_utc")
    rest = "ORDER BY COALESCE(conversation_id, id), datetime_utc, id"
    turns: list[Turn] = []
    current, time = "", None
    for row in read_rows(connection, head, "responses", columns, rest):
        key = text_of(row["conversation_id"]) or text_of(row["id"])
        if key in done:
            continue
        if key != current:
            if current:
                yield Conversation(tuple(turns), _NAME, "", current, _name(connection, head, current), time)
            turns, current, time = [], key, as_time(row["datetime_utc"])
            if row["system"]:
                turns.append(Turn("system", text_of(row["system"])))
        turns += _response_turns(connection, head, row)
    if current:
        yield Conversation(tuple(turns), _NAME, "", current, _name(connection, head, current), time)


def _name(connection: sqlite3.Connection, head: Head, conversation: str) -> str:
    if not head.has("conversations.id", "conversations.name"):
        return ""
    row = connection.execute("SELECT name FROM conversations WHERE id = ?", (conversation,)).fetchone()
    return "" if row is None else text_of(row["name"])


def _response_turns(connection: sqlite3.Connection, head: Head, row: sqlite3.Row) -> Iterator[Turn]:
    """Yield the turns of a prompt with its response; the results of tools were sent with the prompt."""
    key = (row["id"],)
    time = as_time(row["datetime_utc"])
    results: list[str] = []
    if head.has("tool_results.response_id", "tool_results.output"):
        query = "SELECT output FROM tool_results WHERE response_id = ? ORDER BY id"
        results = [text_of(result["output"]) for result in connection.execute(query, key)]
    fragments: list[str] = []
    if head.has("prompt_fragments.fragment_id", "fragments.content"):
        query = (
            "SELECT content FROM prompt_fragments JOIN fragments ON fragments.id = fragment_id"
            ' WHERE response_id = ? ORDER BY prompt_fragments."order"'
        )
        fragments = [text_of(fragment["content"]) for fragment in connection.execute(query, key)]
    prompt = "\n".join(text for text in (*fragments, text_of(row["prompt"])) if text)
    for result in results:
        yield Turn("tool", result)
    if prompt or not results:
        yield Turn("user", prompt, time=time)
    calls_tool = False
    if head.has("tool_calls.response_id"):
        calls_tool = connection.execute("SELECT 1 FROM tool_calls WHERE response_id = ?", key).fetchone() is not None
    model = text_of(row["model"])
    yield Turn("assistant", text_of(row["response"]), time=time, model=model, calls_tool=calls_tool)
