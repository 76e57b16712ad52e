"""ChatGPT exports: a zip, its folder, or its `conversations.json`; since 2026 several numbered files.

A conversation is a tree of messages, because answers can be regenerated and questions edited. The branch that the app
shows leads from `current_node` to the root.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlx_personal.importers.conversation import Alternative, Conversation, Rating, Skipped, Turn, role_of
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of, text_of_parts
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, LIKELY, NO
from mlx_personal.importers.json_records import Record, read_records

_FEEDBACK: Final = "message_feedback.json"
_NUMBERED: Final = re.compile(r"conversations(-\d+)?\.json")
# Content types whose parts are text that the app shows.
_TEXT_TYPES: Final = ("text", "multimodal_text")
# Invisible marks around citations, `cite` and references between private-use characters.
_CITATION: Final = re.compile("\ue200.*?\ue201", re.DOTALL)


class ChatGPTImporter:
    """Reads the conversations of a ChatGPT export."""

    name = "chatgpt"
    side_files = frozenset(
        {
            *("user.json", "user_settings.json", "chat.html", "shared_conversations.json", _FEEDBACK, "sora.json"),
            *("model_comparisons.json", "group_chats.json", "export_manifest.json", "shopping.json"),
        }
    )

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is a ChatGPT export."""
        if not head.is_json or "mapping" not in head.keys:
            return NO
        return CERTAIN if head.keys & {"current_node", "conversation_id", "create_time"} else LIKELY

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the conversations of a file."""
        ratings = _ratings(document)
        for record in read_records(document, head):
            yield record if isinstance(record, Skipped) else _conversation(record, ratings)


def _ratings(document: Document) -> dict[str, Rating]:
    """Return the thumbs of the export by the ids of their messages or, in old exports, of their conversations."""
    sibling = document.sibling(_FEEDBACK)
    if sibling is None:
        return {}
    ratings: dict[str, Rating] = {}
    for record in read_records(sibling, Head(sibling.name, "json", is_list=True)):
        row = as_mapping(record.value) if isinstance(record, Record) else {}
        rating: Rating | None = {"thumbs_up": "good", "thumbs_down": "bad"}.get(str(row.get("rating")))  # type: ignore[assignment]
        for key in ("message_id", "id"):
            if rating is not None and isinstance(row.get(key), str):
                ratings[row[key]] = rating
    return ratings


def _conversation(record: Record, ratings: Mapping[str, Rating]) -> Conversation | Skipped:
    value = as_mapping(record.value)
    nodes = as_mapping(value.get("mapping"))
    if not nodes:
        return Skipped(record.where, "a conversation without messages", ChatGPTImporter.name)
    if value.get("is_do_not_remember") is True:
        return Skipped(record.where, "marked as do not remember", ChatGPTImporter.name)
    if value.get("is_temporary_chat") is True:
        return Skipped(record.where, "a temporary chat", ChatGPTImporter.name)
    path = _branch(nodes, value.get("current_node"))
    turns = tuple(turn for node in path if (turn := _turn(nodes, node, ratings)) is not None)
    return Conversation(
        turns,
        ChatGPTImporter.name,
        record.where,
        id=str(value.get("conversation_id") or value.get("id") or ""),
        title=text_of(value.get("title")),
        time=as_time(value.get("create_time")),
    )


def _branch(nodes: Mapping[str, Any], current: object) -> list[str]:
    """Return the ids from the root to the node that the app shows, or to the latest leaf if it names none."""
    if not isinstance(current, str) or current not in nodes:
        parents = {as_mapping(node).get("parent") for node in nodes.values()}
        leaves = [key for key in nodes if key not in parents] or list(nodes)
        current = max(leaves, key=lambda key: _time(nodes, key))
    path: list[str] = []
    seen: set[str] = set()
    while isinstance(current, str) and current in nodes and current not in seen:
        seen.add(current)
        path.append(current)
        current = as_mapping(nodes[current]).get("parent")
    return path[::-1]


def _time(nodes: Mapping[str, Any], key: str) -> float:
    return as_time(as_mapping(as_mapping(nodes[key]).get("message")).get("create_time")) or 0.0


def _turn(nodes: Mapping[str, Any], key: str, ratings: Mapping[str, Rating]) -> Turn | None:
    """Return the turn of a node, or None for one that the app does not show."""
    message = as_mapping(as_mapping(nodes[key]).get("message"))
    metadata = as_mapping(message.get("metadata"))
    role = role_of(as_mapping(message.get("author")).get("role"))
    if role is None or metadata.get("is_visually_hidden_from_conversation") is True:
        return None
    text, left_out = _text(as_mapping(message.get("content")))
    rating = ratings.get(key)
    return Turn(
        role,
        text,
        time=as_time(message.get("create_time")),
        model=text_of(metadata.get("model_slug")),
        weight=0 if message.get("weight") == 0 and role == "assistant" else 1,
        calls_tool=role == "assistant" and message.get("recipient", "all") != "all",
        rating=rating,
        rating_source="thumbs" if rating else "",
        alternatives=_alternatives(nodes, key) if role == "assistant" else (),
        left_out=left_out,
    )


def _text(content: Mapping[str, Any]) -> tuple[str, dict[str, int]]:
    if content.get("content_type") not in _TEXT_TYPES:
        return "", {}
    text, left_out = text_of_parts(content.get("parts"))
    return _CITATION.sub("", text).strip(), left_out


def _alternatives(nodes: Mapping[str, Any], key: str) -> tuple[Alternative, ...]:
    """Return the other answers to the same question, which the owner did not continue with."""
    parent = as_mapping(nodes.get(text_of(as_mapping(nodes[key]).get("parent"))))
    siblings = [child for child in as_list(parent.get("children")) if child != key and child in nodes]
    texts = []
    for child in siblings:
        message = as_mapping(as_mapping(nodes[child]).get("message"))
        if role_of(as_mapping(message.get("author")).get("role")) == "assistant":
            texts.append(_text(as_mapping(message.get("content")))[0])
    return tuple(Alternative(text, "regenerated") for text in texts if text)
