"""A study's folder: finished cells, and what they share. One process writes to it; a kill loses what was not finished.

Every cell is one row, keyed by the hash of all its settings, so a second run computes only what is missing. Vectors and
synthetic sets are rows by dialogue, so that a new experiment computes only those of dialogues it is the first to keep.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.research.study.cell import BASE_PROTOCOL, PROTOCOL, Cell
from mlx_personal.storage.database import Database, DatabaseSchema, check_folder, now

_MIGRATIONS: Final = (
    """
    CREATE TABLE cells (
        key TEXT PRIMARY KEY,  -- Cell.key
        settings TEXT NOT NULL,
        result TEXT NOT NULL,
        finished_at TEXT NOT NULL
    );

    -- Of a dialogue, by a model: what made it, and its content's hash.
    CREATE TABLE embeddings (
        made_by TEXT NOT NULL,
        dialogue TEXT NOT NULL,
        vector BLOB NOT NULL,     -- float32, little-endian, unit norm
        entropies TEXT NOT NULL,  -- EOE by estimator
        PRIMARY KEY (made_by, dialogue)
    );

    CREATE TABLE synthetic (
        made_by TEXT NOT NULL,
        dialogue TEXT NOT NULL,   -- the original's hash
        kept TEXT NOT NULL,       -- the synthetic sets that passed the checks, in order
        reasons TEXT NOT NULL,    -- how many met which
        PRIMARY KEY (made_by, dialogue)
    );
    """,
)
SCHEMA: Final = DatabaseSchema("study", "study.db", _MIGRATIONS, "name another folder", "name another folder")

Finished = tuple[Cell, dict[str, Any]]


class Records:
    """The records in `folder`; UserError where it is another program's turn, or the disk refuses.

    Args:
        folder: made where it is missing and `write` is asked for; UserError if it holds no study otherwise.
        write: take its lock.
    """

    def __init__(self, folder: Path, write: bool = False):
        check_folder(folder, SCHEMA, write, "run `mlx-personal study run` first, or name its folder")
        self.folder = folder
        self.database = Database(folder, write, SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def has(self, cell: Cell) -> bool:
        """Whether this cell has been run."""
        return self.database.row("SELECT 1 FROM cells WHERE key = ?", cell.key) is not None

    def add(self, cell: Cell, result: dict[str, Any]) -> None:
        """Keeps a finished cell; one that is there already stays as it is."""
        row = (cell.key, json.dumps(cell.to_json()), json.dumps(result), now())
        with self.database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO cells VALUES (?, ?, ?, ?)", row)

    def finished(self) -> list[Finished]:
        """All finished cells with their results, in the order in which they finished.

        Those that another version computed in another way (`settings.PROTOCOL`) compare with none and are left out.
        UserError for one that this version cannot read.
        """
        cells = []
        for row in self.database.rows("SELECT settings, result FROM cells ORDER BY rowid"):
            try:
                settings = json.loads(row["settings"])
                if settings.get("protocol") not in (PROTOCOL, BASE_PROTOCOL):
                    continue
                cell = Cell.from_json(settings)
                if settings["protocol"] == cell.protocol:
                    cells.append((cell, json.loads(row["result"])))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                what = f"this study holds a cell that this version of mlx-personal cannot read ({error})"
                raise UserError(
                    what, self.folder, "upgrade mlx-personal, or run a new study in another folder"
                ) from error
        return cells

    def count(self) -> int:
        """How many cells have finished, those that `finished` leaves out with them."""
        return self.database.scalar("SELECT COUNT(*) FROM cells")

    def embeddings(self, made_by: str) -> dict[str, tuple[np.ndarray, dict[str, float]]]:
        """(vector, EOE by estimator) of every dialogue that was embedded so, by the dialogue's key."""
        rows = self.database.rows("SELECT dialogue, vector, entropies FROM embeddings WHERE made_by = ?", made_by)
        return {r["dialogue"]: (np.frombuffer(r["vector"], "<f4"), json.loads(r["entropies"])) for r in rows}

    def add_embeddings(
        self, made_by: str, keys: Sequence[str], vectors: np.ndarray, entropies: dict[str, Sequence[float]]
    ) -> None:
        """Keeps the vectors [N, D] and entropies [N] of N dialogues."""
        with self.database.transaction() as connection:
            for i, (key, vector) in enumerate(zip(keys, vectors, strict=True)):
                scores = json.dumps({name: float(values[i]) for name, values in entropies.items()})
                row = (made_by, key, vector.astype("<f4").tobytes(), scores)
                connection.execute("INSERT OR IGNORE INTO embeddings VALUES (?, ?, ?, ?)", row)

    def synthetic(self, made_by: str) -> dict[str, list[Dialogue]]:
        """The synthetic sets that were made so and kept, by their original's key; none for one without."""
        rows = self.database.rows("SELECT dialogue, kept FROM synthetic WHERE made_by = ?", made_by)
        return {r["dialogue"]: [Dialogue.from_messages(m) for m in json.loads(r["kept"])] for r in rows}

    def synthesis_reasons(self) -> dict[str, int]:
        """How many synthetic sets of all that were written met which fate."""
        counts: dict[str, int] = {}
        for row in self.database.rows("SELECT reasons FROM synthetic"):
            for reason, count in json.loads(row["reasons"]).items():
                counts[reason] = counts.get(reason, 0) + count
        return counts

    def add_synthetic(self, made_by: str, written: Iterable[tuple[str, list[Dialogue], dict[str, int]]]) -> None:
        """Keeps (original's key, its synthetic sets, how many met which fate) for some dialogues."""
        with self.database.transaction() as connection:
            for key, kept, reasons in written:
                messages = json.dumps([dialogue.to_messages() for dialogue in kept])
                row = (made_by, key, messages, json.dumps(reasons))
                connection.execute("INSERT OR IGNORE INTO synthetic VALUES (?, ?, ?, ?)", row)
