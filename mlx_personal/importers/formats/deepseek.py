"""DeepSeek exports: a zip, its folder, or its `conversations.json`.

A conversation is a tree of messages, as in ChatGPT's exports. A message consists of fragments whose types say who wrote
them; thoughts, searches and tools are fragments of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlx_personal.importers.conversation import Conversation, Skipped, Turn
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of
from mlx_personal.importers.formats.branches import read_branch
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO
from mlx_personal.importers.json_records import Record, read_records

_APP: Final = "deepseek"
_ROLES: Final = {"REQUEST": "user", "RESPONSE": "assistant"}


class DeepSeekImporter:
    """Reads the conversations of a DeepSeek export."""

    name = _APP
    refuses = False
    side_files = frozenset({"user.json"})

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is a DeepSeek export."""
        return CERTAIN if head.is_json and head.has("mapping", "inserted_at") else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the conversations of a file."""
        for record in read_records(document, head):
            yield record if isinstance(record, Skipped) else _conversation(record)


def _conversation(record: Record) -> Conversation | Skipped:
    value = as_mapping(record.value)
    nodes = {key: as_mapping(node) for key, node in as_mapping(value.get("mapping")).items()}
    if not nodes:
        return Skipped(record.where, "a conversation without messages", _APP)
    messages = {key: as_mapping(node.get("message")) for key, node in nodes.items()}
    branch = read_branch(
        {key: text_of(node.get("parent")) or None for key, node in nodes.items()},
        {key: as_time(message.get("inserted_at")) for key, message in messages.items()},
        value.get("current_node"),  # exports have none: the latest message is the last one
        lambda key: _turns(messages[key]),
    )
    title, time = text_of(value.get("title")), as_time(value.get("inserted_at"))
    identity = text_of(value.get("id"))
    return Conversation(branch.turns, _APP, record.where, identity, title, time, branch.left_behind)


def _turns(message: Mapping[str, Any]) -> list[Turn]:
    """Return the turn of a message, or none for the root of the tree."""
    texts: dict[str, list[str]] = {}
    for fragment in (as_mapping(item) for item in as_list(message.get("fragments"))):
        role, text = _ROLES.get(text_of(fragment.get("type"))), text_of(fragment.get("content")).strip()
        if role is not None:
            texts.setdefault(role, []).extend([text] if text else [])
    time, model, files = as_time(message.get("inserted_at")), text_of(message.get("model")), message.get("files")
    left_out = {"file": len(as_list(files))} if as_list(files) else {}
    return [
        Turn(role, "\n\n".join(texts[role]), time, model=model if role == "assistant" else "", left_out=left_out)
        for role in _ROLES.values()
        if role in texts
    ]
