"""The web page of llama.cpp, and other programs that write the Session Trace Simple Format (STS-Format).

A session is a line with its name, then a line a message. Those of llama.cpp form a tree; `currNode` is in the branch
that the page shows. Older exports of it are JSON: `{"conv": ..., "messages": [...]}`, or a list of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mlx_personal.importers.conversation import Conversation, Skipped, Turn, role_of
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of, text_of_parts
from mlx_personal.importers.formats.branches import Branch, read_branch
from mlx_personal.importers.formats.session_lines import first_line
from mlx_personal.importers.formats.tree import MessageTree
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO
from mlx_personal.importers.json_records import read_records

_LLAMA_CPP: Final = "llama.cpp"
_HARNESS: Final = re.compile(r"[\w.-]{1,40}")


class LlamaCppImporter:
    """Reads sessions of llama.cpp's web page, and others in the STS-Format."""

    name = "llama-cpp"
    refuses = False
    side_files: frozenset[str] = frozenset()

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file contains such sessions."""
        line = first_line(head)
        is_session = line.get("type") == "session" and "harness" in line
        return CERTAIN if is_session or (head.is_json and head.has("conv.id", "messages.item.convId")) else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the sessions of a file."""
        session: Mapping[str, Any] | None = None
        where, messages = document.where, list[Mapping[str, Any]]()
        for record in read_records(document, head):
            if isinstance(record, Skipped):
                yield record
                continue
            value = as_mapping(record.value)
            if value.get("type") == "session":
                if session is not None:
                    yield _conversation(session, messages, where)
                session, where, messages = value, record.where, []
            elif value.get("type") == "message" and session is not None:
                messages.append(as_mapping(value.get("message")))
            elif "conv" in value:
                old_messages = [as_mapping(message) for message in as_list(value.get("messages"))]
                yield _conversation(as_mapping(value["conv"]), old_messages, record.where)
            elif value.get("type") == "message" or not value:
                yield Skipped(record.where, "a message without a session", _LLAMA_CPP)
        if session is not None:
            yield _conversation(session, messages, where)


def _conversation(
    session: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], where: str
) -> Conversation | Skipped:
    harness = text_of(session.get("harness"))
    app = harness if _HARNESS.fullmatch(harness) and harness != "llama.app" else _LLAMA_CPP
    if not messages:
        return Skipped(where, "a conversation without messages", app)
    times = [as_time(message.get("timestamp")) for message in messages]
    branch = _branch(session, messages)
    return Conversation(
        branch.turns,
        app,
        where,
        id=text_of(session.get("id")),
        title=text_of(session.get("name")),
        time=min((time for time in times if time is not None), default=None),
        left_behind=branch.left_behind,
    )


def _branch(session: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> Branch:
    """Return the branch that is shown, which has all turns if the messages form no tree."""
    nodes: dict[str, Mapping[str, Any]] = {}
    for message in messages:
        if isinstance(message.get("id"), str) and "parent" in message:
            nodes.setdefault(message["id"], message)
    if not nodes:
        return Branch(tuple(turn for message in messages for turn in _message_turns(message)), 0)
    parents = {key: text_of(message.get("parent")) or None for key, message in nodes.items()}
    times = {key: as_time(message.get("timestamp")) for key, message in nodes.items()}
    current = session.get("currNode")
    if isinstance(current, str) and current in nodes:
        *_, current = MessageTree(parents, times).following(current)
    return read_branch(parents, times, current, lambda key: _message_turns(nodes[key]))


def _message_turns(message: Mapping[str, Any]) -> list[Turn]:
    role = role_of(message.get("role"))
    if role is None or message.get("type") == "root":
        return []
    text, left_out = text_of_parts(message.get("content"))
    for extra in as_list(message.get("extra")):
        kind = "image" if as_mapping(extra).get("type") in ("IMAGE", "imageFile") else "file"
        left_out[kind] = left_out.get(kind, 0) + 1
    return [
        Turn(
            role,
            text,
            time=as_time(message.get("timestamp")),
            model=text_of(message.get("model")),
            # In older exports a text in JSON, where an empty one means that there are none.
            calls_tool=role == "assistant" and message.get("toolCalls") not in (None, "", "[]", []),
            left_out=left_out,
        )
    ]
