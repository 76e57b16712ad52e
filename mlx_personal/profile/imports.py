"""The tables of imports: batches, the origins of dialogues, and the verdicts that follow from an export.

Each method is one query or one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import Action, UserError
from mlx_personal.profile.exchanges import put_exchanges
from mlx_personal.profile.records import dump_dialogue
from mlx_personal.storage.database import Database, utc_now

# Dialogues are scored in the order of the stream, so those after the last decision are unscored. A search for dialogues
# without a decision would take longer the longer the stream is.
LAST_DECIDED: Final = "(SELECT coalesce(max(dialogue_id), 0) FROM decisions)"


@dataclass(frozen=True)
class ImportRow:
    """A batch of imported dialogues.

    Attributes:
        id: Its id.
        paths: What was imported.
        options: The format and the filters.
        started_at: Time of its start, UTC.
        finished_at: Time of its end, UTC; None if it was interrupted.
        summary: What was read, new, known and skipped; None if it was interrupted.
        undone_at: When it was taken back, UTC; None unless it was.
    """

    id: int
    paths: tuple[str, ...]
    options: dict[str, Any]
    started_at: str
    finished_at: str | None
    summary: dict[str, Any] | None
    undone_at: str | None

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Self:
        """Return the record of a row of `imports`."""
        summary = None if row["summary"] is None else json.loads(row["summary"])
        parsed = {"paths": tuple(json.loads(row["paths"])), "options": json.loads(row["options"]), "summary": summary}
        return cls(**{**dict(row), **parsed})


@dataclass(frozen=True)
class Origin:
    """Where an imported dialogue comes from.

    Attributes:
        app: Name of the app or of the file format.
        conversation_id: The app's id of the conversation; empty if it has none.
        title: Title of the conversation; empty if it has none.
        model: Name of the model that answered; empty if unknown.
        time: When the conversation began, in seconds since 1970, UTC; None if unknown.
        position: Index of the first message that the import brought; those before it are context, or of an earlier
            import.
    """

    app: str
    conversation_id: str = ""
    title: str = ""
    model: str = ""
    time: float | None = None
    position: int = 0


@dataclass(frozen=True)
class OriginRow:
    """An import's share of a dialogue.

    Attributes:
        dialogue_id: The dialogue.
        import_id: The import.
        origin: Where it comes from.
    """

    dialogue_id: int
    import_id: int
    origin: Origin

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Self:
        """Return the record of a row of `origins`."""
        names = ("app", "conversation_id", "title", "model", "time", "position")
        return cls(row["dialogue_id"], row["import_id"], Origin(**{name: row[name] for name in names}))


@dataclass(frozen=True)
class InferredVerdictRow:
    """A verdict that follows from an export.

    Attributes:
        id: Its id.
        dialogue_id: The dialogue.
        answer: Index of the answer in the dialogue's `assistant_turns`.
        rating: `good` or `bad`.
        source: What it follows from, such as `thumbs`.
        evidence: The words or the record that it follows from.
    """

    id: int
    dialogue_id: int
    answer: int
    rating: str
    source: str
    evidence: str


class Imports:
    """The imports of a profile.

    Args:
        database: The profile's database.
    """

    def __init__(self, database: Database):
        self._database = database

    # Batches

    def begin(self, paths: Sequence[str], options: dict[str, Any]) -> int:
        """Record the start of an import.

        Args:
            paths: What is imported.
            options: The format and the filters.

        Returns:
            The import's id.
        """
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO imports (paths, options, started_at) VALUES (?, ?, ?)",
                (json.dumps(list(paths)), json.dumps(options), utc_now()),
            )
        return int(cursor.lastrowid or 0)

    def finish(self, import_id: int, summary: dict[str, Any]) -> None:
        """Record the end of an import.

        Args:
            import_id: The import.
            summary: What was read, new, known and skipped, as plain JSON.
        """
        with self._database.transaction() as connection:
            query = "UPDATE imports SET finished_at = ?, summary = ? WHERE id = ?"
            connection.execute(query, (utc_now(), json.dumps(summary), import_id))

    def all(self) -> list[ImportRow]:
        """Return all imports in order, including interrupted ones and those that were taken back."""
        return [ImportRow.from_row(row) for row in self._database.fetch_all("SELECT * FROM imports ORDER BY id")]

    def get(self, import_id: int) -> ImportRow:
        """Return the import with this id.

        Raises:
            UserError: If there is none.
        """
        row = self._database.fetch_one("SELECT * FROM imports WHERE id = ?", import_id)
        if row is None:
            raise UserError(f"there is no import {import_id}", remedy=Action.LIST_IMPORTS)
        return ImportRow.from_row(row)

    # Dialogues

    def id_of_key(self, key: str) -> int | None:
        """Return the id of the dialogue with this content, or None if the profile has none.

        Args:
            key: Its `Dialogue.key`.
        """
        row = self._database.fetch_one("SELECT id FROM dialogues WHERE key = ?", key)
        return None if row is None else int(row["id"])

    def has_conversation(self, app: str, conversation_id: str) -> bool:
        """Return whether turns of a conversation were imported; False for one without an id.

        Args:
            app: Name of the app.
            conversation_id: The app's id of the conversation.
        """
        query = "SELECT 1 FROM origins WHERE conversation_id = ? AND conversation_id != '' AND app = ? LIMIT 1"
        return self._database.fetch_one(query, conversation_id, app) is not None

    def is_of_conversation(self, dialogue_id: int, app: str, conversation_id: str) -> bool:
        """Return whether a dialogue is of a conversation; of one without an id, whether it is of its app without one.

        Args:
            dialogue_id: The dialogue.
            app: Name of the app.
            conversation_id: The app's id of the conversation; empty if it has none.
        """
        query = "SELECT 1 FROM origins WHERE dialogue_id = ? AND app = ? AND conversation_id = ? LIMIT 1"
        return self._database.fetch_one(query, dialogue_id, app, conversation_id) is not None

    def is_scored(self, dialogue_id: int) -> bool:
        """Return whether a dialogue has been scored, after which it does not change.

        Args:
            dialogue_id: The dialogue.
        """
        return bool(self._database.fetch_int(f"SELECT ? <= {LAST_DECIDED}", dialogue_id))

    def add(self, import_id: int, dialogue: Dialogue, source: str, origin: Origin) -> int | None:
        """Append a dialogue to the stream.

        Args:
            import_id: The import that brings it.
            dialogue: The dialogue.
            source: The file that it comes from.
            origin: The conversation that it comes from.

        Returns:
            Its id; None if the stream already has it.
        """
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "INSERT OR IGNORE INTO dialogues (key, messages, source, received_at) VALUES (?, ?, ?, ?)",
                (dialogue.key, dump_dialogue(dialogue), source, utc_now()),
            )
            if not cursor.rowcount:
                return None
            dialogue_id = int(cursor.lastrowid or 0)
            _add_origin(connection, import_id, dialogue_id, dialogue, origin)
        return dialogue_id

    def extend(self, import_id: int, dialogue_id: int, dialogue: Dialogue, origin: Origin) -> bool:
        """Replace an unscored dialogue by its continuation.

        Args:
            import_id: The import that brings it.
            dialogue_id: The dialogue.
            dialogue: Its messages and further ones.
            origin: The conversation that it comes from.

        Returns:
            Whether it was replaced; not if the stream already has the longer dialogue.
        """
        with self._database.transaction() as connection:
            query = "UPDATE OR IGNORE dialogues SET key = ?, messages = ? WHERE id = ?"
            if not connection.execute(query, (dialogue.key, dump_dialogue(dialogue), dialogue_id)).rowcount:
                return False
            _add_origin(connection, import_id, dialogue_id, dialogue, origin)
        return True

    def origins(self, dialogue_id: int) -> list[OriginRow]:
        """Return where a dialogue comes from: nothing for one that was not imported, else a row for each import.

        Args:
            dialogue_id: The dialogue.
        """
        query = "SELECT * FROM origins WHERE dialogue_id = ? ORDER BY import_id"
        return [OriginRow.from_row(row) for row in self._database.fetch_all(query, dialogue_id)]

    def dialogue_count(self, import_id: int) -> int:
        """Return the number of dialogues that have turns of an import."""
        return self._database.fetch_int("SELECT count(*) FROM origins WHERE import_id = ?", import_id)

    # Verdicts

    def has_verdict(self, dialogue_id: int, answer: int, rating: str, source: str, conversation_id: str) -> bool:
        """Return whether a verdict says nothing new.

        That is so if it is the latest one of its conversation from its source. Of conversations without an id, which
        cannot be distinguished, it is so if one of them had it at any time.

        Args:
            dialogue_id: The dialogue.
            answer: Index of the answer in the dialogue's `assistant_turns`.
            rating: `good` or `bad`.
            source: What the verdict follows from, such as `thumbs`.
            conversation_id: The app's id of the conversation that has the verdict; empty if it has none.
        """
        rows = self._database.fetch_all(
            "SELECT rating FROM inferred_verdicts"
            " WHERE dialogue_id = ? AND answer = ? AND source = ? AND conversation_id = ? ORDER BY id DESC",
            dialogue_id,
            answer,
            source,
            conversation_id,
        )
        return rating in [row["rating"] for row in rows][: 1 if conversation_id else None]

    def is_rated(self, dialogue_id: int, answer: int) -> bool:
        """Return whether there is a verdict on an answer.

        Args:
            dialogue_id: The dialogue.
            answer: Index of the answer in the dialogue's `assistant_turns`.
        """
        query = "SELECT 1 FROM inferred_verdicts WHERE dialogue_id = ? AND answer = ? LIMIT 1"
        return self._database.fetch_one(query, dialogue_id, answer) is not None

    def add_verdicts(
        self, import_id: int, dialogue_id: int, verdicts: Iterable[tuple[int, str, str, str]], conversation_id: str = ""
    ) -> None:
        """Store verdicts that follow from an export.

        Args:
            import_id: The import that brings them.
            dialogue_id: The dialogue.
            verdicts: Index of the answer in the dialogue's `assistant_turns`, rating, source and evidence of each.
            conversation_id: The app's id of the conversation that has them; empty if it has none.
        """
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO inferred_verdicts"
                " (dialogue_id, import_id, conversation_id, answer, rating, source, evidence)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((dialogue_id, import_id, conversation_id, *verdict) for verdict in verdicts),
            )

    def verdicts(self, dialogue_id: int) -> list[InferredVerdictRow]:
        """Return the verdicts on a dialogue that follow from an export, in the order of its answers.

        Args:
            dialogue_id: The dialogue.
        """
        query = "SELECT id, dialogue_id, answer, rating, source, evidence FROM inferred_verdicts"
        rows = self._database.fetch_all(f"{query} WHERE dialogue_id = ? ORDER BY answer, id", dialogue_id)
        return [InferredVerdictRow(**dict(row)) for row in rows]


def _add_origin(
    connection: sqlite3.Connection, import_id: int, dialogue_id: int, dialogue: Dialogue, origin: Origin
) -> None:
    # An import may bring turns of a dialogue twice, when its files have the same conversation in two states.
    connection.execute(
        "INSERT OR IGNORE INTO origins VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            dialogue_id,
            import_id,
            origin.app,
            origin.conversation_id,
            origin.title,
            origin.model,
            origin.time,
            origin.position,
        ),
    )
    put_exchanges(connection, dialogue_id, dialogue, origin.conversation_id)
