"""The files of a ChatGPT export that say something about its conversations: thumbs, group chats, missing parts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mlx_personal.errors import StorageError, UserError
from mlx_personal.importers.conversation import Rating, Skipped
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, text_of
from mlx_personal.importers.head import read_head
from mlx_personal.importers.json_records import read_records

APP: Final = "chatgpt"
FEEDBACK: Final = "message_feedback.json"
GROUP_CHATS: Final = "group_chats.json"
MANIFEST: Final = "export_manifest.json"
# Since 2026 the conversations are in several numbered files.
_CONVERSATIONS: Final = re.compile(r"conversations(-\d+)?\.json")
_RATINGS: Final[Mapping[str, Rating]] = {
    **dict.fromkeys(("thumbs_up", "thumbsUp"), "good"),
    **dict.fromkeys(("thumbs_down", "thumbsDown"), "bad"),
}


@dataclass(frozen=True)
class Feedback:
    """The thumbs that a user gave.

    Attributes:
        by_message: Ratings by the ids of the messages.
        by_conversation: For each conversation the ids of the rated messages and the ratings, in the order of the file.
            Older exports have ids of the feedback instead.
    """

    by_message: dict[str, Rating] = field(default_factory=dict)
    by_conversation: dict[str, list[tuple[str, Rating]]] = field(default_factory=dict)


@dataclass(frozen=True)
class SideFiles:
    """What the other files of an export say.

    Attributes:
        feedback: The thumbs.
        group_chats: Ids of conversations with other people.
        skipped: What is left out of the export, and what cannot be read.
    """

    feedback: Feedback = field(default_factory=Feedback)
    group_chats: set[str] = field(default_factory=set)
    skipped: list[Skipped] = field(default_factory=list)


def read_side_files(document: Document) -> SideFiles:
    """Read the other files of an export.

    Args:
        document: One of its files of conversations.

    Returns:
        What they say. What is left out is only named for the first file of conversations.
    """
    found = SideFiles()
    for row in _records(document.sibling(FEEDBACK), found.skipped):
        _add_feedback(as_mapping(row), found.feedback)
    for number, row in enumerate(_records(document.sibling(GROUP_CHATS), found.skipped), 1):
        for chat in as_list(as_mapping(row).get("chats")) or [row]:
            if as_mapping(chat).get("id"):
                found.group_chats.add(text_of(as_mapping(chat).get("id")))
                found.skipped.append(Skipped(f"{_where(document, GROUP_CHATS)}:{number}", "a group chat", APP))
    for row in _records(document.sibling(MANIFEST), found.skipped):
        for file in as_list(as_mapping(row).get("export_files")):
            path = text_of(as_mapping(file).get("path"))
            name = path.rpartition("/")[2]
            if _CONVERSATIONS.fullmatch(name) and document.sibling(name) is None:
                found.skipped.append(Skipped(_where(document, MANIFEST), "a part of the export that is missing", APP))
    if not _is_first(document):
        found.skipped.clear()
    return found


def _records(document: Document | None, skipped: list[Skipped]) -> Iterator[Any]:
    """Yield the values of a file that may be missing or damaged."""
    if document is None:
        return
    try:
        for record in read_records(document, read_head(document)):
            if isinstance(record, Skipped):
                skipped.append(record)
            else:
                yield record.value
    except StorageError:
        raise
    except UserError as error:  # the conversations can be read without it
        skipped.append(Skipped(document.where, error.what, APP))


def _add_feedback(row: Mapping[str, Any], feedback: Feedback) -> None:
    rating = _RATINGS.get(text_of(row.get("rating")))
    message = text_of(row.get("message_id")) or text_of(row.get("id"))
    if rating is None:
        return
    if message:
        feedback.by_message[message] = rating
    feedback.by_conversation.setdefault(text_of(row.get("conversation_id")), []).append((message, rating))


def _is_first(document: Document) -> bool:
    """Return whether a file of conversations is the first one of its export."""
    folder = document.name.rpartition("/")[0]
    names = [name for name in document.siblings if name.rpartition("/")[0] == folder]
    return document.name == min(
        (n for n in names if _CONVERSATIONS.fullmatch(n.rpartition("/")[2])), default=document.name
    )


def _where(document: Document, name: str) -> str:
    sibling = document.sibling(name)
    return document.where if sibling is None else sibling.where
