"""What a server has answered, in a run's folder: nothing is asked twice, and a run that was stopped goes on from here.

`augment.db` holds more than answers: what becomes of each user is kept by `results` in a table of its own, whose
statements are appended to `_MIGRATIONS`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlx_personal.storage.database import Database, DatabaseSchema, now

_MIGRATIONS: Final = (
    """
    CREATE TABLE answers (
        key TEXT PRIMARY KEY,       -- Server.key of the request
        text TEXT NOT NULL,         -- "" where the server refused to say anything
        finish_reason TEXT,         -- as the server calls it; NULL where it gave none
        prompt_tokens INTEGER,      -- as the server counts; NULL where it did not
        completion_tokens INTEGER,
        charged INTEGER NOT NULL,   -- tokens that a budget is charged with
        received_at TEXT NOT NULL
    );

    -- Attempts that the server may bill although no answer came, with the most tokens that may be. A key may be in it
    -- often, and be answered after all.
    CREATE TABLE lost (
        key TEXT NOT NULL,
        charged INTEGER NOT NULL
    );
    CREATE INDEX lost_by_key ON lost (key);
    """,
    """
    -- What a user's adapter, which lies in the folder, came of.
    CREATE TABLE learnt (
        user TEXT PRIMARY KEY,
        key TEXT NOT NULL,             -- of all that decides it but the answers
        unanswered INTEGER NOT NULL,   -- requests
        result TEXT NOT NULL,          -- results.Result
        finished_at TEXT NOT NULL
    );
    """,
)
SCHEMA: Final = DatabaseSchema("augmentation", "augment.db", _MIGRATIONS, "name another folder", "name another folder")


@contextlib.contextmanager
def opened(folder: Path, write: bool = True) -> Iterator[Database]:
    """The folder's `augment.db`, closed at the end of the block."""
    database = Database(folder, write, SCHEMA)
    try:
        yield database
    finally:
        database.close()


@dataclass(frozen=True)
class Answer:
    """One answer as it came; the tokens are the server's count, None where it gave none."""

    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Answers:
    """The answers in a database of `SCHEMA`, which whoever opened it closes."""

    def __init__(self, database: Database):
        self._database = database

    def get(self, key: str) -> Answer | None:
        """The answer to a request, if it has come."""
        row = self._database.row("SELECT * FROM answers WHERE key = ?", key)
        if row is None:
            return None
        return Answer(row["text"], row["finish_reason"], row["prompt_tokens"], row["completion_tokens"])

    def begin(self, key: str, charged: int) -> int:
        """Before an attempt: it counts as lost until another word comes, which the process may not live to say. Returns
        its number."""
        with self._database.transaction() as connection:
            attempt = connection.execute("INSERT INTO lost VALUES (?, ?)", (key, charged)).lastrowid
        assert attempt is not None
        return attempt

    def add(self, attempt: int, key: str, answer: Answer, charged: int) -> None:
        """Keeps the answer that an attempt brought and what it costs in tokens; one that is there already stays."""
        row = (key, answer.text, answer.finish_reason, answer.prompt_tokens, answer.completion_tokens, charged, now())
        with self._database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            connection.execute("DELETE FROM lost WHERE rowid = ?", (attempt,))

    def not_billed(self, attempt: int) -> None:
        """An attempt brought no answer and costs nothing."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM lost WHERE rowid = ?", (attempt,))

    def total(self) -> int:
        """The tokens that all requests of this folder have cost, lost attempts included."""
        query = "SELECT (SELECT COALESCE(SUM(charged), 0) FROM answers) + (SELECT COALESCE(SUM(charged), 0) FROM lost)"
        return self._database.scalar(query)

    def charged(self, keys: Iterable[str]) -> int:
        """The tokens that these requests have cost, lost attempts included."""
        query = (
            "SELECT (SELECT COALESCE(SUM(charged), 0) FROM answers WHERE key = ?)"
            " + (SELECT COALESCE(SUM(charged), 0) FROM lost WHERE key = ?)"
        )
        return sum(self._database.scalar(query, key, key) for key in keys)
