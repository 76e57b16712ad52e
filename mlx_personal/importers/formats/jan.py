"""Jan: a folder for each thread, with its title in `thread.json` and a message a line in `messages.jsonl`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlx_personal.importers.conversation import Conversation, Skipped, Turn, role_of
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO
from mlx_personal.importers.json_records import Record, read_records

_NAME: Final = "jan"
_THREAD: Final = "thread.json"
# A message that an error ended, or that is being written.
_UNFINISHED: Final = ("error", "pending", "in_progress")


class JanImporter:
    """Reads the threads of Jan."""

    name = _NAME
    refuses = False
    side_files = frozenset({_THREAD})

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file has the messages of a thread of Jan."""
        return CERTAIN if head.is_json and head.has("thread_id", "role", "content.item.text.value") else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the thread of a file."""
        messages: list[Mapping[str, Any]] = []
        ids: set[str] = set()
        for record in read_records(document, head):
            if isinstance(record, Skipped):
                yield record
                continue
            message = as_mapping(record.value)
            key = text_of(message.get("id"))
            if key and key in ids:
                yield Skipped(record.where, "a message with the id of another one", _NAME, is_turn=True)
                continue
            ids.add(key)
            messages.append(message)
        # Older versions wrote the latest message first.
        messages.sort(key=lambda message: as_time(message.get("created_at")) or 0.0)
        thread = _thread(document)
        first = messages[0] if messages else {}
        yield Conversation(
            tuple(turn for message in messages for turn in _turns(message)),
            _NAME,
            document.where,
            id=text_of(first.get("thread_id")) or text_of(thread.get("id")),
            title=text_of(thread.get("title")),
            time=as_time(thread.get("created")) or as_time(first.get("created_at")),
        )


def _thread(document: Document) -> Mapping[str, Any]:
    """Return the fields of the thread; none if they cannot be read."""
    sibling = document.sibling(_THREAD)
    if sibling is None:
        return {}
    records = read_records(sibling, Head(sibling.name, "json"))
    return next((as_mapping(record.value) for record in records if isinstance(record, Record)), {})


def _turns(message: Mapping[str, Any]) -> list[Turn]:
    """Return the turns of a message: of an answer also its tool calls and their results, the answer last."""
    role = role_of(message.get("role"))
    if role is None:
        return []
    time = as_time(message.get("created_at"))
    turns: list[Turn] = []
    texts: list[str] = []
    left_out: dict[str, int] = {}
    is_finished = message.get("status") not in _UNFINISHED
    for part in map(as_mapping, as_list(message.get("content"))):
        kind = text_of(part.get("type"))
        if kind == "text":
            texts.append(text_of(as_mapping(part.get("text")).get("value")))
        elif kind == "tool_call":
            turns.append(Turn("assistant", "\n".join(texts), calls_tool=True))
            texts = []
            turns.append(Turn("tool", text_of(part.get("output"))))
        elif kind != "reasoning":
            name = "image" if "image" in kind else "file"
            left_out[name] = left_out.get(name, 0) + 1
    text = "\n".join(text for text in texts if text) if is_finished else ""
    turns.append(Turn(role, text, time=time, left_out=left_out))
    return turns
