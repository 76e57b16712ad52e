"""LM Studio: the `*.conversation.json` files of its conversations folder, one conversation each.

The app rewrites a file at every token, so that it may be cut off for a moment. Of every message it keeps all
versions; `currentlySelected` is the one that it shows. A conversation has no id but the name of its file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from mlx_personal.importers.conversation import REGENERATED, Alternative, Conversation, Skipped, Turn, role_of
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, LIKELY, NO
from mlx_personal.importers.json_records import Record, read_records

_SUFFIX: Final = ".conversation.json"
# The app writes a file within milliseconds.
READ_TRIES: Final = 3
RETRY_SECONDS = 0.1


class LMStudioImporter:
    """Reads the conversations of LM Studio."""

    name = "lm-studio"
    refuses = False
    side_files: frozenset[str] = frozenset()

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is a conversation of LM Studio."""
        if head.is_json and head.has("messages.item.versions", "messages.item.currentlySelected"):
            return CERTAIN
        # A file that is being written may be empty or cut off before its messages.
        return LIKELY if head.base_name.endswith(_SUFFIX) and (head.is_json or head.kind == "empty") else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the conversation of a file."""
        item = _read(document, head)
        yield item if isinstance(item, Skipped) else _conversation(item, document)


def _read(document: Document, head: Head) -> Record | Skipped:
    """Return the content of a file, or why it has none; one that is cut off is read again after a short wait."""
    for tries_left in reversed(range(READ_TRIES)):
        item = next(read_records(document, Head(head.name, "json", head.encoding)))
        if isinstance(item, Record) or document.path is None or not tries_left:
            break
        time.sleep(RETRY_SECONDS)
    return item


def _conversation(record: Record, document: Document) -> Conversation | Skipped:
    value = as_mapping(record.value)
    if not as_list(value.get("messages")):
        return Skipped(record.where, "a conversation without messages", LMStudioImporter.name)
    turns: list[Turn] = []
    system = text_of(value.get("systemPrompt"))
    if system.strip():
        turns.append(Turn("system", system))
    for message in value["messages"]:
        turns += _turns(as_mapping(message))
    return Conversation(
        tuple(turns),
        LMStudioImporter.name,
        record.where,
        id=document.name.rpartition("/")[2].removesuffix(_SUFFIX),
        title=text_of(value.get("name")),
        time=as_time(value.get("createdAt")),
    )


def _turns(message: Mapping[str, Any]) -> list[Turn]:
    """Return the turns of the version of a message that is shown: of an answer also its tool calls, the answer last."""
    versions = [as_mapping(version) for version in as_list(message.get("versions"))]
    if not versions:
        return []
    selected = message.get("currentlySelected")
    if not isinstance(selected, int) or not 0 <= selected < len(versions):
        selected = len(versions) - 1
    turns = _version_turns(versions[selected])
    if not turns or len(versions) == 1:
        return turns
    *before, last = turns
    if last.role == "user":
        return [*before, replace(last, is_edit=selected > 0)]
    others = [_version_turns(version)[-1:] for number, version in enumerate(versions) if number != selected]
    texts = [turn.text for other in others for turn in other if turn.role == "assistant" and turn.text]
    return [*before, replace(last, alternatives=tuple(Alternative(text, REGENERATED) for text in texts))]


def _version_turns(version: Mapping[str, Any]) -> list[Turn]:
    role = role_of(version.get("role"))
    if role is None:
        return []
    if role != "assistant":
        text, left_out, _ = _content(version.get("content"))
        return [Turn(role, text, left_out=left_out)]
    turns: list[Turn] = []
    model = text_of(as_mapping(version.get("senderInfo")).get("senderName"))
    pending = ""
    steps = as_list(version.get("steps")) or [{"type": "contentBlock", "content": version.get("content")}]
    for step in map(as_mapping, steps):
        if step.get("type") == "toolStatus":
            turns.append(Turn(role, pending.strip(), calls_tool=True))
            pending = ""
        elif step.get("type") == "contentBlock" and as_mapping(step.get("style")).get("type") != "thinking":
            text, _, results = _content(step.get("content"))
            turns += [Turn("tool", result) for result in results]
            pending += f"\n\n{text}" if text and pending else text
    return [*turns, Turn(role, pending.strip(), model=model)]


def _content(content: object) -> tuple[str, dict[str, int], list[str]]:
    """Return the text of a content, the numbers of its other parts by type, and the results of tools in it."""
    if isinstance(content, str):
        return content, {}, []
    texts: list[str] = []
    left_out: dict[str, int] = {}
    results: list[str] = []
    for part in map(as_mapping, as_list(content)):
        kind = text_of(part.get("type"))
        if kind == "text" and part.get("isStructural") is not True:  # a structural one is a tag around thoughts
            texts.append(text_of(part.get("text")))
        elif kind == "toolCallResult":
            results.append(text_of(part.get("content")))
        elif kind == "file":
            name = "image" if part.get("fileType") == "image" else "file"
            left_out[name] = left_out.get(name, 0) + 1
    return "".join(texts), left_out, results
