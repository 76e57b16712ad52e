"""Exports of Mistral's Le Chat: a zip or a folder with a file `chat-ID.json` for each chat, a list of messages.

The messages of a file are in no order. What a reaction other than `neutral` is called is described nowhere, so that
reactions are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlx_personal.importers.conversation import Conversation, Skipped, Turn, role_of
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO
from mlx_personal.importers.json_records import read_records

_APP: Final = "mistral"


class MistralImporter:
    """Reads the chats of an export of Le Chat."""

    name = _APP
    refuses = False
    side_files: frozenset[str] = frozenset()

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is a chat of Le Chat."""
        return CERTAIN if head.is_json and head.has("chatId", "role", "createdAt") else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the chats of a file; there is one."""
        chats: dict[str, dict[str, Mapping[str, Any]]] = {}
        for record in read_records(document, head):
            if isinstance(record, Skipped):
                yield record
                continue
            message = as_mapping(record.value)
            messages = chats.setdefault(text_of(message.get("chatId")), {})
            key = text_of(message.get("id")) or record.where
            if _version(message) >= _version(messages.get(key, {})):
                messages[key] = message
        for identity, messages in chats.items():
            ordered = sorted(messages.values(), key=lambda message: as_time(message.get("createdAt")) or 0.0)
            turns = tuple(turn for message in ordered for turn in _turns(message))
            time = turns[0].time if turns else None
            yield Conversation(turns, _APP, document.where, identity, time=time)


def _version(message: Mapping[str, Any]) -> float:
    version = message.get("version")
    return version if isinstance(version, int | float) else 0


def _turns(message: Mapping[str, Any]) -> list[Turn]:
    """Return the turns of a message: of an answer also the calls of tools before it."""
    role, time = role_of(message.get("role")), as_time(message.get("createdAt"))
    if role is None:
        return []
    chunks = [as_mapping(chunk) for chunk in as_list(message.get("contentChunks"))]
    pieces: list[list[str]] = [[]]
    for chunk in chunks:
        if chunk.get("type") == "tool_call":
            pieces.append([])
        elif chunk.get("type") == "text":  # references are between the pieces of a sentence
            pieces[-1].append(text_of(chunk.get("text")))
    *before, text = ("".join(piece).strip() for piece in pieces)
    if not text and not before:
        text = text_of(message.get("content")).strip()
    left_out: dict[str, int] = {}
    for file in as_list(message.get("files")):
        kind = "image" if as_mapping(file).get("type") == "image" else "file"
        left_out[kind] = left_out.get(kind, 0) + 1
    calls = [Turn("assistant", call, time, calls_tool=True) for call in before]
    return [*calls, Turn(role, text, time, left_out=left_out)] if text or left_out or not before else calls
