"""A run's folder: every user's result by every method is one row, so a killed run goes on and a second one has nothing
to do. One process writes to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from mlx_personal.storage.database import Database, DatabaseSchema, check_folder, now

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

# A count of a result: requests for synthetic records that a server had no budget left for.
UNANSWERED: Final = "synthetic: unanswered"


@dataclass(frozen=True)
class Result:
    """What a user's queries came to by a method; `result` is that of `jobs.perform`."""

    task: str
    setting: str
    method: str
    user: str
    result: dict[str, Any]


class Records:
    """The results in `folder`; UserError where it is another process's turn, or the disk refuses.

    Args:
        folder: made where it is missing and `write` is asked for; UserError if it holds no run otherwise.
    """

    def __init__(self, folder: Path, write: bool = False):
        check_folder(folder, SCHEMA, write, "run `mlx-personal lamp run` first")
        self.folder = folder
        self.database = Database(folder, write, SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def unanswered(self, key: str) -> int | None:
        """How many synthetic records this result had to do without, for want of a server's budget; None where it is not
        there."""
        row = self.database.row("SELECT result FROM results WHERE key = ?", key)
        return None if row is None else int(json.loads(row["result"])["counts"].get(UNANSWERED, 0))

    def add(self, key: str, place: int, found: Result) -> None:
        """Keeps a result, in place of one that is there already."""
        row = (key, found.task, found.setting, found.method, found.user, place, json.dumps(found.result), now())
        with self.database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def add_setting(self, setting: str, facts: dict[str, Any]) -> None:
        """Keeps what a setting's hash stands for."""
        with self.database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (setting, json.dumps(facts)))

    def settings(self) -> dict[str, dict[str, Any]]:
        """All settings by their hash, in the order in which they came."""
        rows = self.database.rows("SELECT setting, facts FROM settings ORDER BY rowid")
        return {row["setting"]: json.loads(row["facts"]) for row in rows}

    def results(self, setting: str) -> list[Result]:
        """All results of a setting, as the users stand in the file, each one's methods as they ran."""
        query = "SELECT * FROM results WHERE setting = ? ORDER BY place, rowid"
        return [
            Result(row["task"], row["setting"], row["method"], row["user"], json.loads(row["result"]))
            for row in self.database.rows(query, setting)
        ]
