"""Claude exports: a zip, its folder, or its `conversations.json`; also a file for each conversation.

A message consists of blocks: text, thoughts, calls of tools and their results. The field `text` of an answer contains
its thoughts and remarks on tools too, so it is only read where no block has text. An edited question and an answer
that is written again follow the same message as the earlier version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlx_personal.importers.conversation import Conversation, Skipped, Turn, role_of
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of, text_of_parts
from mlx_personal.importers.formats.branches import read_branch
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO
from mlx_personal.importers.json_records import Record, read_records

# A longer text that is attached is material rather than a question; a pasted question of some paragraphs is shorter.
MAX_ATTACHMENT_CHARS: Final = 4_000
# In the place of a tool call in `text`.
_PLACEHOLDER: Final = re.compile(r"```\s*This block is not supported on your current device yet\.\s*```\s*")


class ClaudeImporter:
    """Reads the conversations of a Claude export."""

    name = "claude"
    refuses = False
    side_files = frozenset({"users.json", "projects.json", "memories.json"})

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is a Claude export."""
        return CERTAIN if head.is_json and "chat_messages" in head.keys else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the conversations of a file."""
        for record in read_records(document, head):
            yield record if isinstance(record, Skipped) else _conversation(record)


def _conversation(record: Record) -> Conversation | Skipped:
    value = as_mapping(record.value)
    listed = [as_mapping(message) for message in as_list(value.get("chat_messages"))]
    if not listed:
        return Skipped(record.where, "a conversation without messages", ClaudeImporter.name)
    if value.get("is_temporary") is True:
        return Skipped(record.where, "a temporary chat", ClaudeImporter.name)
    model = text_of(value.get("model"))
    keys = [text_of(message.get("uuid")) or f"message {number}" for number, message in enumerate(listed)]
    messages = dict(zip(keys, listed, strict=True))
    parents = {key: text_of(message.get("parent_message_uuid")) for key, message in messages.items()}
    if not any(parents.values()):  # older exports have no parents: a message follows the one before it in the list
        parents = dict(zip(keys, ["", *keys], strict=False))
    branch = read_branch(
        {key: parents[key] or None for key in messages},
        {key: as_time(message.get("created_at")) for key, message in messages.items()},
        value.get("current_leaf_message_uuid"),
        lambda key: _turns(messages[key], model),
    )
    return Conversation(
        branch.turns,
        ClaudeImporter.name,
        record.where,
        id=text_of(value.get("uuid")),
        title=text_of(value.get("name")),
        time=as_time(value.get("created_at")),
        left_behind=branch.left_behind,
    )


def _turns(message: Mapping[str, Any], model: str) -> list[Turn]:
    """Return the turns of a message: of an answer also the calls of tools before it and their results."""
    role, time = role_of(message.get("sender")), as_time(message.get("created_at"))
    blocks = [as_mapping(block) for block in as_list(message.get("content"))]
    if role == "user":
        text = _text(blocks) or text_of(message.get("text")).strip()
        return [_with_attachments(text, message, time)]
    if role != "assistant":
        return []
    model = text_of(message.get("model")) or model
    calls = [number for number, block in enumerate(blocks) if block.get("type") == "tool_use"]
    turns: list[Turn] = []
    begin = 0
    for number in calls:
        turns += _results(blocks[begin:number], time)
        turns.append(Turn("assistant", _text(blocks[begin:number]), time, model=model, calls_tool=True))
        begin = number
    turns += _results(blocks[begin:], time)
    text = _text(blocks[begin:])
    if not text and all(_is_text(block) for block in blocks):
        text = _PLACEHOLDER.sub("", text_of(message.get("text"))).strip()
    if text or not turns:
        turns.append(Turn("assistant", text, time, model=model))
    return turns


def _is_text(block: Mapping[str, Any]) -> bool:
    return block.get("type", "text") == "text"


def _text(blocks: list[Mapping[str, Any]]) -> str:
    texts = (text_of(block.get("text")) for block in blocks if _is_text(block))
    return "\n\n".join(text.strip() for text in texts if text.strip())


def _results(blocks: list[Mapping[str, Any]], time: float | None) -> list[Turn]:
    """Return the results of tools that have text."""
    texts = (text_of_parts(block.get("content"))[0] for block in blocks if block.get("type") == "tool_result")
    return [Turn("tool", text, time) for text in texts if text.strip()]


def _with_attachments(text: str, message: Mapping[str, Any], time: float | None) -> Turn:
    """Return a question with the short texts that are attached to it; the app attaches a text that is pasted, too."""
    left_out: dict[str, int] = {}
    for attachment in as_list(message.get("attachments")):
        attached = text_of(as_mapping(attachment).get("extracted_content")).strip()
        if attached and len(attached) <= MAX_ATTACHMENT_CHARS:
            text = f"{text}\n\n{attached}" if text else attached
        else:
            left_out["attachment"] = left_out.get("attachment", 0) + 1
    files = len(as_list(message.get("files"))) or len(as_list(message.get("files_v2")))
    if files:
        left_out["file"] = files
    return Turn("user", text, time, left_out=left_out)
