"""The table of watched folders: each method is one query or one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from mlx_personal.storage.database import Database, utc_now

FileState = tuple[int, ...]
"""Size of a file in bytes and time of its last change in nanoseconds, and the same of its write-ahead log. What cannot
be read has none of these."""


@dataclass(frozen=True)
class WatchedFolderRow:
    """A folder or file of another program, from which new conversations are imported.

    Attributes:
        path: Its absolute path.
        format: Name of the format of its files; empty to recognize each one.
        added_at: When it was added.
        polled_at: When it was last polled; None before the first time.
        files: State of each file when it was last imported, by its name in the folder.
    """

    path: str
    format: str
    added_at: str
    polled_at: str | None
    files: Mapping[str, FileState]

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Self:
        """Return the record of a row of `watched_folders`."""
        files = {name: tuple(state) for name, state in json.loads(row["files"]).items()}
        return cls(row["path"], row["format"], row["added_at"], row["polled_at"], files)


class WatchedFolders:
    """The watched folders of a profile.

    Args:
        database: The profile's database.
    """

    def __init__(self, database: Database):
        self._database = database

    def add(self, path: str, format_name: str) -> None:
        """Watch a folder. If it is watched already, the format is changed, and all of it is polled again.

        Args:
            path: Its absolute path.
            format_name: Name of the format of its files; empty to recognize each one.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO watched_folders (path, format, added_at) VALUES (?, ?, ?)"
                " ON CONFLICT (path) DO UPDATE SET format = excluded.format, files = '{}'",
                (path, format_name, utc_now()),
            )

    def all(self) -> list[WatchedFolderRow]:
        """Return the watched folders in the order in which they were added."""
        rows = self._database.fetch_all("SELECT * FROM watched_folders ORDER BY rowid")
        return [WatchedFolderRow.from_row(row) for row in rows]

    def remove(self, path: str) -> bool:
        """Stop watching a folder, and return whether it was watched.

        Args:
            path: Its absolute path.
        """
        with self._database.transaction() as connection:
            return connection.execute("DELETE FROM watched_folders WHERE path = ?", (path,)).rowcount > 0

    def record_poll(self, path: str, files: Mapping[str, FileState]) -> None:
        """Record that a folder was polled now.

        Args:
            path: Its absolute path.
            files: State of each of its files.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE watched_folders SET polled_at = ?, files = ? WHERE path = ?",
                (utc_now(), json.dumps(files), path),
            )
