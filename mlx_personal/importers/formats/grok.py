"""Both exports of Grok: of grok.com (`prod-grok-backend.json`), and of X (`grok-chat-item.js` in an archive of X).

On grok.com an answer that is written again follows the same response as the earlier one. The archive of X is a script
that assigns a list of messages, each with the id of its chat.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final

from mlx_personal.importers.conversation import Conversation, Skipped, Turn
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of
from mlx_personal.importers.formats.branches import read_branch
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO
from mlx_personal.importers.json_records import Record, read_records

_APP: Final = "grok"
_X_SCRIPT: Final = re.compile(r"\s*window\.YTD\.grok_chat_item\.part\d+\s*=")
# Cards for citations, images and tools between the words of an answer.
_CARD: Final = re.compile(r"<(grok:render|xai:tool_usage_card)\b[^<>]*>.*?</\1>", re.DOTALL)
# Longer answers fit in no dialogue, and cards that do not end take quadratic time.
_MAX_CHARS: Final = 200_000
_FILES: Final = {"image_attachments": "image", "generated_image_urls": "image", "file_attachments": "file"}


class GrokImporter:
    """Reads the conversations with Grok on grok.com and on X."""

    name = _APP
    refuses = False
    side_files = frozenset({"prod-mc-auth-mgmt-api.json", "prod-mc-billing.json"})

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file has conversations with Grok."""
        if head.kind == "text":
            return CERTAIN if _X_SCRIPT.match(head.text) else NO
        return CERTAIN if head.is_json and head.has("conversation", "responses") else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the conversations of a file."""
        if head.kind == "text":
            yield from _read_x(document, head)
            return
        for record in read_records(document, head):
            yield record if isinstance(record, Skipped) else _conversation(record)


def _conversation(record: Record) -> Conversation | Skipped:
    value = as_mapping(record.value)
    fields = as_mapping(value.get("conversation"))
    listed = [as_mapping(as_mapping(item).get("response")) for item in as_list(value.get("responses"))]
    if not listed:
        return Skipped(record.where, "a conversation without messages", _APP)
    if fields.get("temporary") is True:
        return Skipped(record.where, "a temporary chat", _APP)
    keys = [_id(response, "response_id") or f"response {number}" for number, response in enumerate(listed)]
    responses = dict(zip(keys, listed, strict=True))
    parents = {key: text_of(response.get("parent_response_id")) for key, response in responses.items()}
    if not any(parents.values()):  # without parents a response follows the one before it in the list
        parents = dict(zip(keys, ["", *keys], strict=False))
    branch = read_branch(
        {key: parents[key] or None for key in responses},
        {key: _time(response.get("create_time")) for key, response in responses.items()},
        fields.get("leaf_response_id"),
        lambda key: _turns(responses[key]),
    )
    title, time = text_of(fields.get("title")), _time(fields.get("create_time"))
    identity = _id(fields, "conversation_id")
    return Conversation(branch.turns, _APP, record.where, identity, title, time, branch.left_behind)


def _id(fields: Mapping[str, Any], name: str) -> str:
    return text_of(fields.get(name)) or text_of(fields.get("id")) or text_of(fields.get("_id"))


def _time(value: object) -> float | None:
    """Return a time, which may be in the extended JSON of MongoDB."""
    if isinstance(value, Mapping):
        value = value.get("$date")
    if isinstance(value, Mapping):
        digits = text_of(value.get("$numberLong"))
        value = float(digits) if digits.isdecimal() else None
    return as_time(value)


def _turns(response: Mapping[str, Any]) -> list[Turn]:
    sender, time = text_of(response.get("sender")).lower(), _time(response.get("create_time"))
    if not sender:
        return []
    left_out: dict[str, int] = {}
    for key, kind in _FILES.items():
        if count := len(as_list(response.get(key))):
            left_out[kind] = left_out.get(kind, 0) + count
    text = _without_cards(text_of(response.get("message")))
    if sender in ("human", "user"):
        return [Turn("user", text, time, left_out=left_out)]
    # The sender of an answer is `assistant`, `ASSISTANT`, or the name of the model.
    details = as_mapping(as_mapping(response.get("metadata")).get("requestModelDetails"))
    model = text_of(response.get("model")) or text_of(details.get("modelId"))
    weight = 0 if response.get("partial") is True else 1
    return [Turn("assistant", text, time, model=model, weight=weight, left_out=left_out)]


def _without_cards(text: str) -> str:
    return _CARD.sub("", text).strip() if "</" in text and len(text) <= _MAX_CHARS else text.strip()


def _read_x(document: Document, head: Head) -> Iterator[Conversation | Skipped]:
    """Yield the chats of an archive of X in the order of their first message."""
    script = dataclasses.replace(document, open_binary=lambda: _after_assignment(document.open_binary()))
    chats: dict[str, list[Turn]] = {}
    where: dict[str, str] = {}
    for record in read_records(script, Head(head.name, "json", head.encoding, is_list=True)):
        if isinstance(record, Skipped):
            yield record
            continue
        item = as_mapping(as_mapping(record.value).get("grokChatItem"))
        sender = as_mapping(item.get("sender"))
        name = (text_of(sender.get("originalName")) or text_of(sender.get("name"))).upper()
        if name not in ("USER", "AGENT"):
            yield Skipped(record.where, "a message of an unknown sender", _APP)
            continue
        chat = text_of(item.get("chatId"))
        files = len(as_list(item.get("attachments")))
        turn = Turn(
            "user" if name == "USER" else "assistant",
            _without_cards(text_of(item.get("message"))),
            as_time(item.get("createdAt")),
            left_out={"file": files} if files else {},
        )
        chats.setdefault(chat, []).append(turn)
        where.setdefault(chat, record.where)
    for chat, turns in chats.items():
        turns.sort(key=lambda turn: turn.time or 0.0)
        yield Conversation(tuple(turns), _APP, where[chat], chat, time=turns[0].time)


def _after_assignment(stream: BinaryIO) -> BinaryIO:
    """Return a stream of a script that begins after its first equals sign."""
    while stream.read(1) not in (b"=", b""):
        pass
    return stream
