"""Logs of messengers, such as WhatsApp or iMessage, which are recognized in order to refuse them.

They are conversations with other people, who have not agreed that a model learns from what they wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from mlx_personal.importers.conversation import Conversation, Skipped, role_of
from mlx_personal.importers.document import Document
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO

_TIME: Final = r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:[\s\u202f]*[AaPp]\.?[\s\u202f]?[Mm]\.?)?"
_DATE: Final = r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}"
# Lines that begin a message, with the name of its writer: as WhatsApp exports them, and as Telegram copies them.
_MESSAGES: Final = (
    re.compile(rf"^\u200e?\[?{_DATE},?\s+{_TIME}\]?\s*[-\u2013]?\s*(?P<name>[^:\n]{{1,60}}):\s", re.MULTILINE),
    re.compile(rf"^(?P<name>[^,\[\]\n]{{1,60}}), \[{_DATE},? {_TIME}\]", re.MULTILINE),
)
# A line with a time and then one with a name, as imessage-exporter writes them.
_IMESSAGE: Final = re.compile(
    r"^[A-Z][a-z]{2} \d{1,2}, \d{4} +\d{1,2}:\d{2}:\d{2} [AP]M\b.*\n(?P<name>.{1,60})\n", re.MULTILINE
)
_LOG_LEVELS: Final = frozenset({"trace", "debug", "info", "notice", "warn", "warning", "error", "critical", "fatal"})
# Messages by other people in a log; and in a text that begins with one, which quotes of a log seldom do.
_MIN_MESSAGES: Final = 3
_MIN_MESSAGES_FROM_START: Final = 2
# Names that a transcript gives the owner, and no messenger.
_USERS: Final = frozenset({"user", "human"})
_REFUSAL: Final = "a conversation with other people, who have not agreed that a model learns from it"
# Keys of exports, and columns of databases: Telegram, Messenger and Instagram, Discord, Slack; iMessage, WhatsApp.
_KEYS: Final = (
    ("messages.item.from_id", "messages.item.text"),
    ("participants.item.name", "messages.item.sender_name"),
    ("guild.id", "channel.id", "messages.item.author.id"),
    ("client_msg_id", "user", "ts", "text"),
    ("message.is_from_me", "message.handle_id", "handle.id"),
    ("message.from_me", "message.text_data"),
    ("ZWAMESSAGE.ZTEXT", "ZWAMESSAGE.ZISFROMME"),
)


class ChatLogImporter:
    """Refuses the logs of messengers."""

    name = "chat-log"
    refuses = True
    side_files: frozenset[str] = frozenset()

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is the log of a messenger."""
        if head.is_json or head.kind == "sqlite":
            return CERTAIN if any(head.has(*keys) for keys in _KEYS) else NO
        return CERTAIN if head.kind == "text" and _is_log(head.text) else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield why the file is left out."""
        yield Skipped(document.where, _REFUSAL, self.name)


def _is_log(text: str) -> bool:
    """Return whether a text has messages by at least one other person, rather than by roles or a program."""
    for pattern in (*_MESSAGES, _IMESSAGE):
        matches = list(pattern.finditer(text))
        names = [match["name"].strip() for match in matches]
        people = [name for name in names if role_of(name) is None and name.casefold() not in _LOG_LEVELS]
        if len(set(people)) == 1 and not _USERS.isdisjoint(map(str.casefold, names)):
            continue  # the other one is a model
        is_from_start = bool(matches) and not text[: matches[0].start()].strip()
        if len(people) >= (_MIN_MESSAGES_FROM_START if is_from_start else _MIN_MESSAGES):
            return True
    return False
