"""The database of a study's folder: finished cells, and the results that cells share.

A cell is one row, keyed by the hash of its settings, so a second run computes only what is missing. Embeddings and
synthetic dialogues are stored per dialogue, so a new experiment computes only those that are not there yet. One process
writes at a time. A process that is killed loses only unfinished work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import Action, Remedy, UserError
from mlx_personal.research.study.cell import BASE_PROTOCOL, PROTOCOL, Cell
from mlx_personal.research.study.cell_jobs import SynthesizedDialogues
from mlx_personal.storage.database import Database, DatabaseSchema, check_database_folder, utc_now

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

FinishedCell = tuple[Cell, dict[str, Any]]


class StudyDatabase:
    """The database of a study.

    Args:
        folder: Folder of the study; created if it is missing and `write` is set.
        write: Open for writing and take the folder's lock.

    Raises:
        UserError: If the folder holds no study, another process writes to it, or it cannot be read or written.
    """

    def __init__(self, folder: Path, write: bool = False):
        check_database_folder(folder, SCHEMA, write, Remedy(Action.RUN_STUDY, {"folder": str(folder)}))
        self.folder = folder
        self.database = Database(folder, write, SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def has_cell(self, cell: Cell) -> bool:
        """Return whether a cell has finished."""
        return self.database.fetch_one("SELECT 1 FROM cells WHERE key = ?", cell.key) is not None

    def add_cell(self, cell: Cell, result: dict[str, Any]) -> None:
        """Store a finished cell; one that is already stored is not changed."""
        row = (cell.key, json.dumps(cell.to_json()), json.dumps(result), utc_now())
        with self.database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO cells VALUES (?, ?, ?, ?)", row)

    def finished_cells(self) -> list[FinishedCell]:
        """Return the finished cells and their results, in the order in which they finished.

        Cells of another protocol (`cell.PROTOCOL`) were computed differently and are left out.

        Raises:
            UserError: If this version cannot read a cell.
        """
        cells = []
        for row in self.database.fetch_all("SELECT settings, result FROM cells ORDER BY rowid"):
            try:
                settings = json.loads(row["settings"])
                if settings.get("protocol") not in (PROTOCOL, BASE_PROTOCOL):
                    continue
                cell = Cell.from_json(settings)
                if settings["protocol"] == cell.protocol:
                    cells.append((cell, json.loads(row["result"])))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"this study holds a cell that this version of mlx-personal cannot read ({error})",
                    self.folder,
                    "upgrade mlx-personal, or run a new study in another folder",
                ) from error
        return cells

    def count_cells(self) -> int:
        """Return the number of finished cells, including those of another protocol."""
        return self.database.fetch_int("SELECT COUNT(*) FROM cells")

    def embeddings(self, made_by: str) -> dict[str, tuple[np.ndarray, dict[str, float]]]:
        """Return stored embeddings.

        Args:
            made_by: Hash of the model and the protocol that computed them.

        Returns:
            By the dialogue's key its vector, float32 [D], and its EOE by estimator.
        """
        rows = self.database.fetch_all("SELECT dialogue, vector, entropies FROM embeddings WHERE made_by = ?", made_by)
        return {r["dialogue"]: (np.frombuffer(r["vector"], "<f4"), json.loads(r["entropies"])) for r in rows}

    def add_embeddings(
        self, made_by: str, keys: Sequence[str], vectors: np.ndarray, entropies: dict[str, list[float]]
    ) -> None:
        """Store the embeddings of N dialogues.

        Args:
            made_by: Hash of the model and the protocol that computed them.
            keys: The dialogues' keys.
            vectors: Vectors, [N, D].
            entropies: N entropies by estimator.
        """
        with self.database.transaction() as connection:
            for i, (key, vector) in enumerate(zip(keys, vectors, strict=True)):
                scores = json.dumps({name: float(values[i]) for name, values in entropies.items()})
                row = (made_by, key, vector.astype("<f4").tobytes(), scores)
                connection.execute("INSERT OR IGNORE INTO embeddings VALUES (?, ?, ?, ?)", row)

    def synthetic_dialogues(self, made_by: str) -> dict[str, list[Dialogue]]:
        """Return stored synthetic dialogues by the key of their original; the list may be empty.

        Args:
            made_by: `checkpoint_data.synthesis_key` of the cells that use them.
        """
        rows = self.database.fetch_all("SELECT dialogue, kept FROM synthetic WHERE made_by = ?", made_by)
        return {r["dialogue"]: [Dialogue.from_messages(m) for m in json.loads(r["kept"])] for r in rows}

    def add_synthetic_dialogues(self, made_by: str, synthesized: Iterable[SynthesizedDialogues]) -> None:
        """Store the synthetic dialogues of some originals."""
        with self.database.transaction() as connection:
            for item in synthesized:
                messages = json.dumps([dialogue.to_messages() for dialogue in item.dialogues])
                row = (made_by, item.original, messages, json.dumps(item.reasons))
                connection.execute("INSERT OR IGNORE INTO synthetic VALUES (?, ?, ?, ?)", row)

    def count_synthesis_reasons(self) -> dict[str, int]:
        """Return how many candidates were accepted, and how many were rejected for each reason."""
        counts: dict[str, int] = {}
        for row in self.database.fetch_all("SELECT reasons FROM synthetic"):
            for reason, count in json.loads(row["reasons"]).items():
                counts[reason] = counts.get(reason, 0) + count
        return counts
