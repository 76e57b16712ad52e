"""The table of the sample of the stream that a selection policy covers: each method is one query or one transaction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mlx_personal.dialogue import Dialogue
from mlx_personal.profile.records import load_dialogue, load_vector
from mlx_personal.storage.database import Database


@dataclass(frozen=True)
class SampleRow:
    """A dialogue of the sample.

    Attributes:
        position: Its place in the sample, from 0.
        dialogue_id: Id of the dialogue.
        dialogue: The dialogue itself.
        vector: Its embedding, float32 [D] of unit norm.
        eoe: Entropy of embedding.
    """

    position: int
    dialogue_id: int
    dialogue: Dialogue
    vector: np.ndarray
    eoe: float


class StoredSample:
    """The sample of the stream, which is empty unless the selection policy uses one.

    A dialogue that is deleted, because its import is taken back, leaves the sample.

    Args:
        database: The profile's database.
    """

    def __init__(self, database: Database):
        self._database = database

    def rows(self) -> list[SampleRow]:
        """Return the sampled dialogues by position.

        Raises:
            StorageError: If a stored dialogue or vector is damaged.
        """
        query = "SELECT s.*, messages FROM stream_sample AS s JOIN dialogues ON dialogues.id = dialogue_id"
        return [
            SampleRow(
                row["position"],
                row["dialogue_id"],
                load_dialogue(row["messages"]),
                load_vector(row["vector"]),
                row["eoe"],
            )
            for row in self._database.fetch_all(f"{query} ORDER BY position")
        ]

    def put(self, position: int, dialogue_id: int, vector: np.ndarray, eoe: float) -> None:
        """Store a dialogue at a position, in the place of the one that was there.

        Args:
            position: Its place in the sample.
            dialogue_id: The dialogue.
            vector: Its embedding, float32 [D] of unit norm.
            eoe: Entropy of embedding.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO stream_sample VALUES (?, ?, ?, ?)",
                (position, dialogue_id, vector.astype("<f4").tobytes(), eoe),
            )

    def keep(self, positions: Iterable[int]) -> None:
        """Delete the dialogues at all other positions.

        Args:
            positions: The positions to keep.
        """
        kept = set(positions)
        with self._database.transaction() as connection:
            stored = connection.execute("SELECT position FROM stream_sample").fetchall()
            connection.executemany(
                "DELETE FROM stream_sample WHERE position = ?", [(p,) for (p,) in stored if p not in kept]
            )
