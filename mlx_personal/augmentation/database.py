"""The database of a run, `augment.db` in its folder: the server's responses and the result of each user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mlx_personal.storage.database import Database, DatabaseSchema

# Tables and columns keep the names of version 0.1.
RESULTS_TABLE: Final = "learnt"  # codespell:ignore learnt

# A new table is a new entry at the end.
_MIGRATIONS: Final = (
    # Used by `response_cache`.
    """
    CREATE TABLE answers (
        key TEXT PRIMARY KEY,       -- Server.request_key
        text TEXT NOT NULL,         -- empty where the server withheld its response
        finish_reason TEXT,         -- as the server reports it; NULL without one
        prompt_tokens INTEGER,      -- as the server counts; NULL without a count
        completion_tokens INTEGER,
        charged INTEGER NOT NULL,   -- tokens charged to the budget
        received_at TEXT NOT NULL
    );

    -- Attempts without a response that the server may bill nevertheless, with the most tokens they can cost. A key can
    -- be here several times, and be answered as well.
    CREATE TABLE lost (
        key TEXT NOT NULL,
        charged INTEGER NOT NULL
    );
    CREATE INDEX lost_by_key ON lost (key);
    """,
    # Used by `user_results`.
    f"""
    -- The users whose adapters are in the folder.
    CREATE TABLE {RESULTS_TABLE} (
        user TEXT PRIMARY KEY,
        key TEXT NOT NULL,             -- digest of everything that determines the adapter except the responses
        unanswered INTEGER NOT NULL,   -- requests without a response
        result TEXT NOT NULL,          -- UserResult.to_json
        finished_at TEXT NOT NULL
    );
    """,
    # Earlier versions stored a response whose tokens had all gone into thoughts as an empty one, for good; its charge
    # stays. A server that does answer with an empty text does so again.
    """
    INSERT INTO lost SELECT key, charged FROM answers WHERE text = '' AND finish_reason IS NOT 'content_filter';
    DELETE FROM answers WHERE text = '' AND finish_reason IS NOT 'content_filter';
    """,
)
SCHEMA: Final = DatabaseSchema("run", "augment.db", _MIGRATIONS, "choose another folder", "choose another folder")


@contextlib.contextmanager
def open_database(folder: Path, write: bool = True) -> Iterator[Database]:
    """Open the database in a folder and close it at the end of the block.

    Args:
        folder: The run's folder.
        write: Create the database if it is missing and lock it for this process.

    Yields:
        The open database.

    Raises:
        UserError: If another process holds it, or it cannot be opened.
    """
    database = Database(folder, write, SCHEMA)
    try:
        yield database
    finally:
        database.close()
