"""The table of questions that a model proposed: each method is one query or one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from mlx_personal.dialogue import Dialogue
from mlx_personal.profile.records import dump_dialogue
from mlx_personal.storage.database import Database, utc_now

# Source of the dialogues that answer proposed questions.
PROPOSED_SOURCE: Final = "proposed"
# The dialogues that are answers to proposed questions, and no part of the stream.
ANSWERED_PROPOSALS: Final = "(SELECT dialogue_id FROM proposed_questions WHERE dialogue_id IS NOT NULL)"
_OPEN: Final = (
    "rejected_after IS NULL AND (dialogue_id IS NULL"
    " OR dialogue_id NOT IN (SELECT dialogue_id FROM annotations WHERE undone = 0))"
)


@dataclass(frozen=True)
class ProposedQuestionRow:
    """A question that a model proposed.

    Attributes:
        id: Its id.
        question: Its text.
        model: Fingerprint of the base model that wrote it.
        dialogue_id: The dialogue with the owner's answer, even if that verdict was undone; None before the first one.
        is_rejected: Whether the owner has rejected it.
    """

    id: int
    question: str
    model: str
    dialogue_id: int | None
    is_rejected: bool

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Self:
        """Return the record of a row of `proposed_questions`."""
        return cls(row["id"], row["question"], row["model"], row["dialogue_id"], row["rejected_after"] is not None)


class ProposedQuestions:
    """The proposed questions of a profile.

    Args:
        database: The profile's database.
    """

    def __init__(self, database: Database):
        self._database = database

    def add(self, questions: Iterable[str], model: str) -> None:
        """Store new questions.

        Args:
            questions: Their texts; those that were proposed before are left out.
            model: Fingerprint of the base model that wrote them.
        """
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO proposed_questions (question, model, proposed_at) VALUES (?, ?, ?)",
                ((question, model, utc_now()) for question in questions),
            )

    def all(self) -> list[ProposedQuestionRow]:
        """Return all proposed questions in order, including those that were answered or rejected."""
        rows = self._database.fetch_all("SELECT * FROM proposed_questions ORDER BY id")
        return [ProposedQuestionRow.from_row(row) for row in rows]

    def open(self) -> list[ProposedQuestionRow]:
        """Return the questions that were neither answered nor rejected, oldest first."""
        rows = self._database.fetch_all(f"SELECT * FROM proposed_questions WHERE {_OPEN} ORDER BY id")
        return [ProposedQuestionRow.from_row(row) for row in rows]

    def get(self, proposed_id: int) -> ProposedQuestionRow | None:
        """Return the question with this id, or None if there is none."""
        row = self._database.fetch_one("SELECT * FROM proposed_questions WHERE id = ?", proposed_id)
        return None if row is None else ProposedQuestionRow.from_row(row)

    def of_dialogue(self, dialogue_id: int) -> ProposedQuestionRow | None:
        """Return the question that a dialogue answers, or None for a dialogue of the stream."""
        row = self._database.fetch_one("SELECT * FROM proposed_questions WHERE dialogue_id = ?", dialogue_id)
        return None if row is None else ProposedQuestionRow.from_row(row)

    def add_dialogue(self, proposed_id: int, dialogue: Dialogue) -> int:
        """Store the dialogue that holds the owner's answer, outside of the stream.

        Args:
            proposed_id: Id of the question.
            dialogue: The question and the answer.

        Returns:
            The dialogue's id.
        """
        # Not the dialogue's own key: if the owner has the same conversation one day, it joins the stream.
        row = (f"proposed question {proposed_id}", dump_dialogue(dialogue), PROPOSED_SOURCE, utc_now())
        with self._database.transaction() as connection:
            query = "INSERT INTO dialogues (key, messages, source, received_at) VALUES (?, ?, ?, ?)"
            dialogue_id = int(connection.execute(query, row).lastrowid or 0)
            query = "UPDATE proposed_questions SET dialogue_id = ? WHERE id = ?"
            connection.execute(query, (dialogue_id, proposed_id))
        return dialogue_id

    def reject(self, proposed_id: int) -> None:
        """Record that the owner has rejected a question."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE proposed_questions SET rejected_after = (SELECT coalesce(max(id), 0) FROM annotations),"
                " rejection = (SELECT coalesce(max(rejection), 0) + 1 FROM proposed_questions) WHERE id = ?",
                (proposed_id,),
            )

    def undo_rejection(self) -> ProposedQuestionRow | None:
        """Undo the last verdict if it is a rejection.

        Returns:
            The question, or None if an annotation is later than the last rejection.
        """
        with self._database.transaction() as connection:
            row = self._database.fetch_one(
                "SELECT * FROM proposed_questions WHERE rejected_after >="
                " (SELECT coalesce(max(id), 0) FROM annotations WHERE undone = 0) ORDER BY rejection DESC LIMIT 1"
            )
            if row is None:
                return None
            query = "UPDATE proposed_questions SET rejected_after = NULL, rejection = NULL WHERE id = ?"
            connection.execute(query, (row["id"],))
        return self.get(row["id"])
