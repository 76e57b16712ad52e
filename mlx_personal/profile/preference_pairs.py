"""The table of preference pairs: two answers to the same question, of which the owner preferred one.

A pair is stored once and not changed. Whether it is used depends on the latest verdicts, so that taking back the import
of a verdict makes it usable again.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

from mlx_personal.dialogue import strip_thoughts
from mlx_personal.profile.records import load_dialogue
from mlx_personal.storage.database import Database

# Sources, named by `importers`, of pairs that follow from what the owner did next, and not from an explicit choice.
_FOLLOWED: Final = "('correction', 'regenerated')"
# The latest verdict on each answer.
_LATEST: Final = (
    "NOT EXISTS (SELECT 1 FROM inferred_verdicts AS later"
    " WHERE later.dialogue_id = v.dialogue_id AND later.answer = v.answer AND later.id > v.id)"
)
# That a verdict is on the answer before which the prompt of a pair ends. Except after a correction, this is the chosen
# answer, and the dialogue does not have the rejected one.
_AT_PROMPT: Final = "v.dialogue_id = p.dialogue_id AND v.answer = p.answer AND p.source != 'correction'"
_OPPOSING: Final = (
    f"{_LATEST} AND ((v.rating = 'good' AND NOT ({_AT_PROMPT})) OR (v.rating = 'bad' AND p.source IN {_FOLLOWED}))"
)
_VERDICTS: Final = "SELECT p.id, p.chosen, p.rejected, v.dialogue_id, v.answer, v.rating FROM inferred_verdicts AS v"
# Pairs with the verdicts of the same conversation, in this or in another dialogue, that may be on their answers.
# CROSS JOIN sets the order: most dialogues have no verdict, and most conversations one dialogue.
_CANDIDATES: Final = (
    f"{_VERDICTS} CROSS JOIN preference_pairs AS p ON p.dialogue_id = v.dialogue_id WHERE {_OPPOSING}"
    f" UNION {_VERDICTS} CROSS JOIN origins AS rated ON rated.dialogue_id = v.dialogue_id"
    " CROSS JOIN origins AS other ON other.conversation_id = rated.conversation_id AND other.conversation_id != ''"
    " AND other.app = rated.app AND other.dialogue_id != rated.dialogue_id"
    f" CROSS JOIN preference_pairs AS p ON p.dialogue_id = other.dialogue_id WHERE {_OPPOSING}"
)


@dataclass(frozen=True)
class PreferencePairRow:
    """Two answers to the same question, of which the owner preferred one.

    Attributes:
        dialogue_id: The dialogue.
        answer: Index, in the dialogue's `assistant_turns`, of the answer before which the prompt ends.
        chosen: The preferred answer.
        rejected: The other one.
        source: How the preference is known.
    """

    dialogue_id: int
    answer: int
    chosen: str
    rejected: str
    source: str


class PreferencePairs:
    """The preference pairs of a profile.

    Args:
        database: The profile's database.
    """

    def __init__(self, database: Database):
        self._database = database

    def has(self, pair: PreferencePairRow) -> bool:
        """Return whether a pair with the same prompt and rejected answer is stored.

        Args:
            pair: The pair.
        """
        query = "SELECT 1 FROM preference_pairs WHERE dialogue_id = ? AND answer = ? AND rejected = ?"
        return self._database.fetch_one(query, pair.dialogue_id, pair.answer, pair.rejected) is not None

    def add(self, import_id: int, pair: PreferencePairRow) -> None:
        """Store a pair.

        Args:
            import_id: The import that brings it.
            pair: The pair.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO preference_pairs (import_id, dialogue_id, answer, chosen, rejected, source)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (import_id, pair.dialogue_id, pair.answer, pair.chosen, pair.rejected, pair.source),
            )

    def usable(self) -> list[PreferencePairRow]:
        """Return the pairs that no latest verdict opposes, in order.

        A pair is opposed if its rejected answer is rated good; and if its chosen one is rated bad, unless the owner
        chose it explicitly.
        """
        opposed = self._opposed_ids()
        rows = self._database.fetch_all(
            "SELECT id, dialogue_id, answer, chosen, rejected, source FROM preference_pairs ORDER BY id"
        )
        return [PreferencePairRow(*tuple(row)[1:]) for row in rows if row["id"] not in opposed]

    def last_id(self) -> int:
        """Return the id of the pair that was stored last; 0 if there is none."""
        return self._database.fetch_int("SELECT max(id) FROM preference_pairs")

    def usable_count(self) -> int:
        """Return the number of pairs that no latest verdict opposes."""
        return self._database.fetch_int("SELECT count(*) FROM preference_pairs") - len(self._opposed_ids())

    def _opposed_ids(self) -> set[int]:
        """Return the pairs that a latest verdict in the same conversation opposes, by the texts of the answers."""

        @functools.cache
        def answers(dialogue_id: int) -> tuple[str, ...]:
            row = self._database.fetch_one("SELECT messages FROM dialogues WHERE id = ?", dialogue_id)
            return () if row is None else load_dialogue(row["messages"]).assistant_turns

        opposed = set()
        for row in self._database.fetch_all(_CANDIDATES):
            texts = answers(row["dialogue_id"])
            text = row["rejected"] if row["rating"] == "good" else row["chosen"]
            if row["answer"] < len(texts) and strip_thoughts(texts[row["answer"]]).strip() == text.strip():
                opposed.add(row["id"])
        return opposed
