"""One SQLite file in a folder: WAL, migrations, one writer at a time, and failures as one-line errors."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mlx_personal.errors import UserError, from_os_error, from_sqlite_error


def now() -> str:
    """The time as stored: UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()


def peek(path: Path, query: str) -> sqlite3.Row | None:
    """The first row of a query on a database of any version, or None; takes no lock and migrates nothing."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            row: sqlite3.Row | None = connection.execute(query).fetchone()
            return row
    except sqlite3.Error as error:
        raise from_sqlite_error(error, path) from error


@dataclass(frozen=True)
class DatabaseSchema:
    """What a database holds: `what` it is, as errors call it; its `file`; its `migrations`, of which `PRAGMA
    user_version` counts those applied; `instead`: what its user can do while another process has it; `elsewhere`: and
    where the folder cannot be written or read."""

    what: str
    file: str
    migrations: tuple[str, ...]
    instead: str
    elsewhere: str


def check_folder(folder: Path, schema: DatabaseSchema, write: bool, hint: str) -> None:
    """UserError where a file is in the folder's place, or nobody wrote here and the folder is only to be read.

    `hint`: how to come by what is missing.
    """
    try:
        there, is_file = (folder / schema.file).exists(), folder.is_file()
    except OSError as error:
        raise from_os_error(error, folder, schema.elsewhere) from error
    if is_file:
        raise UserError(f"is a file; a {schema.what} is a folder", folder, "name a folder")
    if not write and not there:
        raise UserError(f"there is no {schema.what} here", folder, hint)


class Database:
    """The database of a folder.

    Args:
        folder: made where it is missing, for its owner's eyes only.
        write: take the folder's lock, so that a second process that wants to write is told so at once.
        schema: what it holds.
    """

    def __init__(self, folder: Path, write: bool, schema: DatabaseSchema):
        self.path = folder / schema.file
        self._schema = schema
        self._lock: IO[str] | None = None
        try:
            if write:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._lock = _locked(folder / "lock", schema)
            with self.errors():
                self._connection = self._connected(write)
                self._connection.row_factory = sqlite3.Row
                self._connection.execute("PRAGMA foreign_keys = ON")
                self._connection.execute("PRAGMA busy_timeout = 5000")
                if write:
                    os.chmod(self.path, 0o600)
                    self._connection.execute("PRAGMA journal_mode = WAL")
                self._migrate(write)
        except OSError as error:
            raise from_os_error(error, folder, schema.elsewhere) from error

    def close(self) -> None:
        self._connection.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block's changes, or none of them."""
        with self.errors():
            if self._connection.in_transaction:  # an inner block is part of the outer one
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk may have rolled back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self.errors():
            return self._connection.execute(query, values).fetchall()

    def row(self, query: str, *values: object) -> sqlite3.Row | None:
        found = self.rows(query, *values)
        return found[0] if found else None

    def scalar(self, query: str, *values: object) -> int:
        row = self.row(query, *values)
        return int(row[0]) if row is not None and row[0] is not None else 0

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """SQLite's failures inside the block become errors that the owner can read."""
        try:
            yield
        except sqlite3.Error as error:
            raise from_sqlite_error(error, self.path, self._schema.what, self._schema.elsewhere) from error

    def _connected(self, write: bool) -> sqlite3.Connection:
        # isolation_level None: transactions begin where `transaction` says, not where sqlite3 guesses.
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("SELECT 1 FROM sqlite_master")
        except sqlite3.OperationalError as error:
            connection.close()
            # A reader makes files beside a WAL database, which a read-only folder refuses. It can do without them where
            # no log is left: nobody writes, and nothing is missing from the database's own file.
            refused = error.sqlite_errorcode in (sqlite3.SQLITE_READONLY_DIRECTORY, sqlite3.SQLITE_CANTOPEN)
            if write or not refused or self.path.with_name(f"{self.path.name}-wal").exists():
                raise
            uri = f"{self.path.absolute().as_uri()}?mode=ro&immutable=1"
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        return connection

    def _migrate(self, write: bool) -> None:
        what, migrations = self._schema.what, self._schema.migrations
        version = self.scalar("PRAGMA user_version")
        if version > len(migrations):
            raise UserError(f"this {what} was written by a newer mlx-personal", self.path, "upgrade mlx-personal")
        if version < len(migrations) and not write:
            raise UserError(
                f"this {what} was made by an older version", self.path, "run it once, to bring it up to date"
            )
        for number, statements in enumerate(migrations[version:], start=version + 1):
            self._connection.executescript(f"BEGIN; {statements}; PRAGMA user_version = {number}; COMMIT;")


def _locked(path: Path, schema: DatabaseSchema) -> IO[str]:
    """The folder's lock file, held until it is closed or the process ends."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise UserError(
            f"this {schema.what} is in use by another process ({holder})",
            path.parent,
            f"wait for it, or {schema.instead}",
        ) from None
    file.truncate(0)
    file.write(f"pid {os.getpid()}")
    file.flush()
    return file
