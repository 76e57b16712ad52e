"""Queries on the verdicts that follow from exports: which dialogues have one, and which annotations were made of them.

`profile.imports` stores them. A dialogue has a proposal if there is a verdict on one of its answers and it has been
scored, after which it does not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlx_personal.profile.imports import LAST_DECIDED
from mlx_personal.profile.preference_pairs import PreferencePairs
from mlx_personal.storage.database import Database

_SCORED: Final = f"SELECT DISTINCT dialogue_id FROM inferred_verdicts AS v WHERE dialogue_id <= {LAST_DECIDED}"
_ANNOTATIONS: Final = "SELECT 1 FROM annotations AS a WHERE a.dialogue_id = v.dialogue_id"
# Dialogues with a proposal that have no current annotation.
OPEN_PROPOSALS: Final = f"{_SCORED} AND NOT EXISTS ({_ANNOTATIONS} AND undone = 0)"


@dataclass(frozen=True)
class InferredCounts:
    """Numbers of proposals, and of what became of them.

    Attributes:
        proposals: Number of dialogues with a proposal and without an annotation.
        taken: Number of proposals that the user took.
        annotated: Number of annotations with a preferred answer that were accepted without asking.
        held_out: Number of these that are held out for evaluation.
        skipped: Number of dialogues that were skipped without asking.
        pairs: Number of preference pairs that are used.
    """

    proposals: int
    taken: int
    annotated: int
    held_out: int
    skipped: int
    pairs: int


class InferredVerdicts:
    """The dialogues with verdicts that follow from exports.

    Args:
        database: The profile's database.
    """

    def __init__(self, database: Database):
        self._database = database

    def open_ids(self, limit: int) -> list[int]:
        """Return dialogues with a proposal and without an annotation, oldest first.

        Args:
            limit: Maximum number of dialogues.
        """
        rows = self._database.fetch_all(f"{OPEN_PROPOSALS} ORDER BY dialogue_id LIMIT ?", limit)
        return [row["dialogue_id"] for row in rows]

    def acceptable_ids(self) -> list[int]:
        """Return the dialogues whose proposal may be accepted without asking, in the order of the stream.

        These never had an annotation, not even one that was undone; or they have one that was accepted without asking,
        and nothing was decided about them since an import with another verdict began.
        """
        unasked = f"EXISTS ({_ANNOTATIONS} AND undone = 0 AND origin = 'inferred')"
        later = f"{_ANNOTATIONS} AND asked_at >= (SELECT started_at FROM imports WHERE id = v.import_id)"
        condition = f"(NOT EXISTS ({_ANNOTATIONS}) OR ({unasked} AND NOT EXISTS ({later})))"
        rows = self._database.fetch_all(f"{_SCORED} AND {condition} ORDER BY dialogue_id")
        return [row["dialogue_id"] for row in rows]

    def has_proposal(self, dialogue_id: int) -> bool:
        """Return whether a dialogue has a proposal, with or without an annotation.

        Args:
            dialogue_id: The dialogue.
        """
        return self._database.fetch_one(f"{_SCORED} AND dialogue_id = ?", dialogue_id) is not None

    def counts(self) -> InferredCounts:
        """Return the numbers of proposals and of what became of them."""
        proposals = self._database.fetch_int(f"SELECT count(*) FROM ({OPEN_PROPOSALS})")
        (row,) = self._database.fetch_all(
            "SELECT coalesce(sum(origin = 'proposal'), 0) AS taken,"
            " coalesce(sum(origin = 'inferred' AND messages IS NOT NULL), 0) AS annotated,"
            " coalesce(sum(origin = 'inferred' AND messages IS NOT NULL AND held_out), 0) AS held_out,"
            " coalesce(sum(origin = 'inferred' AND messages IS NULL), 0) AS skipped"
            " FROM annotations WHERE undone = 0 AND origin != 'owner'"
        )
        pairs = PreferencePairs(self._database).usable_count()
        return InferredCounts(proposals=proposals, pairs=pairs, **dict(row))
