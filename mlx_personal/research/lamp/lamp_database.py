"""The database of a run's folder: one row for every user and method.

A run that was killed continues from here, and a finished one has nothing to do. One process writes at a time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Self

from mlx_personal.errors import Action, Remedy
from mlx_personal.research.lamp.lamp_results import Count, MethodResult, StoredResult
from mlx_personal.research.lamp.methods import current_name, stored_name
from mlx_personal.storage.database import Database, DatabaseSchema, check_database_folder, utc_now

_MIGRATIONS: Final = (
    """
    CREATE TABLE results (
        key TEXT PRIMARY KEY,      -- hash of all that decides it
        task TEXT NOT NULL,
        setting TEXT NOT NULL,     -- hash of what the users of a table have in common
        method TEXT NOT NULL,
        user TEXT NOT NULL,
        place INTEGER NOT NULL,    -- the user's in the file
        result TEXT NOT NULL,
        finished_at TEXT NOT NULL
    );
    -- What a setting's hash stands for.
    CREATE TABLE settings (
        setting TEXT PRIMARY KEY,
        facts TEXT NOT NULL
    );
    """,
)
SCHEMA: Final = DatabaseSchema("LaMP run", "lamp.db", _MIGRATIONS, "name another folder", "name another folder")


class LampDatabase:
    """The database of a LaMP run.

    Args:
        folder: Folder of the run; created if it is missing and `write` is set.
        write: Open for writing and take the folder's lock.

    Raises:
        UserError: If the folder holds no run, another process writes to it, or it cannot be read or written.
    """

    def __init__(self, folder: Path, write: bool = False):
        check_database_folder(folder, SCHEMA, write, Remedy(Action.RUN_LAMP, {"folder": str(folder)}))
        self.folder = folder
        self.database = Database(folder, write, SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def num_unanswered(self, key: str) -> int | None:
        """Return how many synthetic records a result lacks because a server did not answer; None for no result."""
        row = self.database.fetch_one("SELECT result FROM results WHERE key = ?", key)
        return None if row is None else int(json.loads(row["result"])["counts"].get(Count.UNANSWERED, 0))

    def save_result(self, key: str, index: int, stored: StoredResult) -> None:
        """Store a result, replacing an earlier one.

        Args:
            key: Hash of everything that decides the result.
            index: Index of the user in the file.
            stored: The result.
        """
        data = json.dumps(stored.result.to_json())
        row = (key, stored.task, stored.setting, stored_name(stored.method), stored.user, index, data, utc_now())
        with self.database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def save_setting(self, setting: str, metadata: dict[str, Any]) -> None:
        """Store what the hash of a setting stands for."""
        with self.database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (setting, json.dumps(metadata)))

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return the metadata of all settings by their hash, the oldest first."""
        rows = self.database.fetch_all("SELECT setting, facts FROM settings ORDER BY rowid")
        return {row["setting"]: json.loads(row["facts"]) for row in rows}

    def results(self, setting: str) -> list[StoredResult]:
        """Return all results of a setting, in the order of the users in the file and of the methods in the run."""
        query = "SELECT * FROM results WHERE setting = ? ORDER BY place, rowid"
        return [
            StoredResult(
                row["task"],
                row["setting"],
                current_name(row["method"]),
                row["user"],
                MethodResult.from_json(json.loads(row["result"])),
            )
            for row in self.database.fetch_all(query, setting)
        ]
