"""The table of the vectors of questions, which are computed once: each method is one query or one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from mlx_personal.profile.records import load_vector
from mlx_personal.storage.database import Database


class QuestionVectors:
    """The vectors of the first questions of dialogues that can be examples in a prompt.

    Args:
        database: The profile's database.
    """

    def __init__(self, database: Database):
        self._database = database

    def get(self, embedder: str) -> dict[int, np.ndarray]:
        """Return the stored vectors of an embedder by the ids of their dialogues, float32 [D].

        Args:
            embedder: Identifies the base model and the embedder.

        Raises:
            StorageError: If a stored vector is damaged.
        """
        query = "SELECT dialogue_id, vector FROM question_vectors WHERE embedder = ?"
        return {row["dialogue_id"]: load_vector(row["vector"]) for row in self._database.fetch_all(query, embedder)}

    def update(self, embedder: str, vectors: Mapping[int, np.ndarray], kept_ids: Sequence[int]) -> None:
        """Store vectors, and delete those of other embedders and of dialogues that are not kept.

        Args:
            embedder: Identifies the base model and the embedder.
            vectors: The new vectors by the ids of their dialogues, [D].
            kept_ids: Ids of all dialogues whose vectors stay stored.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM question_vectors WHERE embedder != ?"
                " OR dialogue_id NOT IN (SELECT value FROM json_each(?))",
                (embedder, json.dumps(list(kept_ids))),
            )
            connection.executemany(
                "INSERT OR REPLACE INTO question_vectors VALUES (?, ?, ?)",
                ((key, embedder, vector.astype("<f4").tobytes()) for key, vector in vectors.items()),
            )
