"""The table of exchanges: which dialogue has a question with its answer that an import reads.

Two exchanges are the same if they and all questions and answers before them are equal. A hash of these texts, the
prefix hash, stands for them. So a later export of a conversation, a branch that was copied to another one, and the same
conversation in another app are recognized, however many dialogues begin alike. An imported dialogue has a row for each
of its answers of weight 1, and nearly every hash is in the table once. Thoughts and results of tools are not hashed,
and a system turn only in conversations without an id: rows of a training set may differ in nothing else, while apps
change it between exports.
"""

from __future__ import annotations

import functools
import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mlx_personal.dialogue import Dialogue, strip_thoughts
from mlx_personal.errors import StorageError
from mlx_personal.profile.records import load_dialogue
from mlx_personal.storage.database import Database

# So many bytes of a hash that two exchanges of a long stream have the same one with a chance of 1 in 10^26.
_HASH_BYTES: Final = 16
_INSERT: Final = "INSERT OR IGNORE INTO exchanges (dialogue_id, answer, prefix_hash) VALUES (?, ?, ?)"


@dataclass(frozen=True)
class Exchange:
    """A question and its answer in a conversation.

    Attributes:
        before: The prefix hash of the exchange before it; of the first one, a hash of the system turn.
        question: The question.
        answer: The answer.
        weight: Weight of the answer.
    """

    before: bytes
    question: str
    answer: str
    weight: int

    @functools.cached_property
    def prefix_hash(self) -> bytes:
        """The hash of the questions and answers of the conversation up to and including this exchange."""
        return self.hash_with(self.answer)

    def hash_with(self, answer: str) -> bytes:
        """Return the prefix hash that the exchange would have with another answer.

        Args:
            answer: The other answer.
        """
        return _hash(self.before, self.question, strip_thoughts(answer))


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """Where an answer is stored.

    Attributes:
        dialogue_id: The dialogue.
        answer: Index of the answer in the dialogue's `assistant_turns`.
    """

    dialogue_id: int
    answer: int


def exchanges_of(dialogue: Dialogue, conversation_id: str) -> list[Exchange]:
    """Return the exchanges of a conversation in order, including those of weight 0.

    Args:
        dialogue: Its dialogue.
        conversation_id: The app's id of the conversation; empty if it has none.
    """
    first = dialogue.messages[0]
    before = _hash(b"", first.content if first.role == "system" and not conversation_id else "")
    questions = (message.content for message in dialogue.messages if message.role == "user")
    answers = (message for message in dialogue.messages if message.role == "assistant")
    exchanges = []
    for question, answer in zip(questions, answers, strict=True):
        exchanges.append(Exchange(before, question, answer.content, answer.weight))
        before = exchanges[-1].prefix_hash
    return exchanges


class Exchanges:
    """The exchanges of the imported dialogues of a profile.

    Args:
        database: The profile's database.
    """

    def __init__(self, database: Database):
        self._database = database

    def find(self, prefix_hash: bytes) -> StoredAnswer | None:
        """Return where an exchange is stored; in the first dialogue if several have it, None if none has it.

        Args:
            prefix_hash: Its prefix hash.
        """
        query = "SELECT dialogue_id, answer FROM exchanges WHERE prefix_hash = ? ORDER BY dialogue_id LIMIT 1"
        row = self._database.fetch_one(query, prefix_hash)
        return None if row is None else StoredAnswer(row["dialogue_id"], row["answer"])

    def hashes_of(self, dialogue_id: int) -> set[bytes]:
        """Return the prefix hashes of the exchanges of a dialogue.

        Args:
            dialogue_id: The dialogue.
        """
        rows = self._database.fetch_all("SELECT prefix_hash FROM exchanges WHERE dialogue_id = ?", dialogue_id)
        return {row["prefix_hash"] for row in rows}


def put_exchanges(connection: sqlite3.Connection, dialogue_id: int, dialogue: Dialogue, conversation_id: str) -> None:
    """Store the exchanges of a new dialogue, or the further ones of a dialogue that was continued.

    Args:
        connection: The profile's database, in a transaction.
        dialogue_id: The dialogue.
        dialogue: Its messages.
        conversation_id: The app's id of the conversation that it comes from; empty if it has none.
    """
    connection.executemany(_INSERT, _rows(dialogue_id, exchanges_of(dialogue, conversation_id)))


def fill_exchanges(connection: sqlite3.Connection) -> None:
    """Store the exchanges of all imported dialogues, in a migration.

    Args:
        connection: The profile's database, in a transaction.
    """

    def rows() -> Iterator[tuple[int, int, bytes]]:
        query = (
            "SELECT id, messages, conversation_id FROM dialogues JOIN origins ON dialogue_id = id"
            " GROUP BY id ORDER BY id"  # several imports may have brought turns of a dialogue, of one conversation
        )
        for dialogue_id, messages, conversation_id in connection.execute(query):
            try:
                dialogue = load_dialogue(messages)
            except StorageError:
                continue  # reported where it is read
            yield from _rows(dialogue_id, exchanges_of(dialogue, conversation_id))

    connection.executemany(_INSERT, rows())


def _rows(dialogue_id: int, exchanges: Sequence[Exchange]) -> Iterator[tuple[int, int, bytes]]:
    targets = (exchange.prefix_hash for exchange in exchanges if exchange.weight)
    return ((dialogue_id, answer, prefix_hash) for answer, prefix_hash in enumerate(targets))


def _hash(before: bytes, *texts: str) -> bytes:
    state = hashlib.sha256(before)
    for text in texts:
        data = text.strip().encode()
        state.update(b"%d:" % len(data))  # so that the end of one text cannot be the start of the next
        state.update(data)
    return state.digest()[:_HASH_BYTES]
