"""A SQLite database in a folder: WAL mode, migrations, one writer at a time, and errors as `UserError`."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

from mlx_personal.errors import Action, Remedy, StorageError, UserError, from_os_error, from_sqlite_error

logger = logging.getLogger(__name__)

# SQL statements; or, for what SQL cannot compute, a function of the connection in a transaction.
Migration: TypeAlias = str | Callable[[sqlite3.Connection], None]


def utc_now() -> str:
    """Return the current time as it is stored: UTC, ISO 8601, in whole seconds."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()


def read_one_row(path: Path, query: str) -> sqlite3.Row | None:
    """Return the first row of a query on a database of any version, without locking or migrating it.

    Args:
        path: The database file.
        query: The query.

    Returns:
        The row, or None if there is none.

    Raises:
        UserError: If the database cannot be read.
    """
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            row: sqlite3.Row | None = connection.execute(query).fetchone()
            return row
    except sqlite3.Error as error:
        raise from_sqlite_error(error, path) from error


@dataclass(frozen=True)
class DatabaseSchema:
    """The schema of a kind of database, and the words of its error messages.

    Attributes:
        kind: Name of the kind of folder in error messages, such as `profile`.
        file_name: Name of the database file in the folder.
        migrations: Ordered steps; `PRAGMA user_version` stores how many have been applied.
        busy_hint: What a user can do while another process uses the folder.
        access_hint: What a user can do if the folder cannot be written or read.
    """

    kind: str
    file_name: str
    migrations: tuple[Migration, ...]
    busy_hint: str
    access_hint: str


def check_database_folder(folder: Path, schema: DatabaseSchema, write: bool, remedy: Remedy | Action | str) -> None:
    """Check that a folder can be opened as a database.

    Args:
        folder: The folder.
        schema: The database's schema.
        write: Whether it will be written, and created if it does not exist.
        remedy: How to create it, as a remedy or in words.

    Raises:
        UserError: If the path is a file, or if the folder will only be read and contains no database.
    """
    try:
        exists, is_file = (folder / schema.file_name).exists(), folder.is_file()
    except OSError as error:
        raise from_os_error(error, folder, schema.access_hint) from error
    if is_file:
        raise UserError(f"is a file; a {schema.kind} is a folder", folder, "name a folder")
    if not write and not exists:
        what = f"there is no {schema.kind} here"
        if isinstance(remedy, str):
            raise UserError(what, folder, remedy)
        raise UserError(what, folder, remedy=remedy)


class Database:
    """The database of a folder.

    Args:
        folder: The folder; created, accessible only to its owner, if it does not exist.
        write: Open for writing and lock the folder, so that a second writer fails at once. A database of an older
            version is migrated in any case.
        schema: The database's schema.

    Attributes:
        path: The database file.

    Raises:
        UserError: If the folder cannot be read or written, another process is writing to it, or it was written by a
            newer version.
    """

    _lock: IO[str] | None = None

    def __init__(self, folder: Path, write: bool, schema: DatabaseSchema):
        self.path = folder / schema.file_name
        self._schema = schema
        with contextlib.ExitStack() as on_failure:
            try:
                if write:
                    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                    self._lock = on_failure.enter_context(_acquire_lock(folder / "lock", schema))
                with self.convert_errors():
                    self._connection = on_failure.enter_context(contextlib.closing(self._connect(write)))
                    self._connection.row_factory = sqlite3.Row
                    self._connection.execute("PRAGMA foreign_keys = ON")
                    self._connection.execute("PRAGMA busy_timeout = 5000")
                    # No text that is deleted or replaced stays in free pages of the file.
                    self._connection.execute("PRAGMA secure_delete = ON")
                    if write:
                        os.chmod(self.path, 0o600)
                        self._connection.execute("PRAGMA journal_mode = WAL")
                        self._migrate()
                    elif self._version() < len(schema.migrations):
                        Database(folder, True, schema).close()  # only a writer can migrate it
            except OSError as error:
                raise from_os_error(error, folder, schema.access_hint) from error
            on_failure.pop_all()  # From here on, `close` closes them.

    def close(self) -> None:
        """Close the connection and release the lock."""
        self._connection.close()
        if self._lock is not None:
            self._lock.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Apply all changes of the `with` block, or none of them if it raises. Blocks may be nested.

        Yields:
            The connection.

        Raises:
            UserError: If SQLite fails.
        """
        with self.convert_errors():
            if self._connection.in_transaction:  # An inner block belongs to the outer transaction.
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite may already have rolled back, for example when the disk is full.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def fetch_all(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Return all rows of a query.

        Args:
            query: The query, with a `?` for each value.
            *values: The values.

        Raises:
            UserError: If SQLite fails.
        """
        with self.convert_errors():
            return self._connection.execute(query, values).fetchall()

    def fetch_one(self, query: str, *values: object) -> sqlite3.Row | None:
        """Return the first row of a query, or None if there is none.

        Args:
            query: The query, with a `?` for each value.
            *values: The values.

        Raises:
            UserError: If SQLite fails.
        """
        rows = self.fetch_all(query, *values)
        return rows[0] if rows else None

    def fetch_int(self, query: str, *values: object) -> int:
        """Return the first column of the first row as a number; 0 if there is no row or it is NULL.

        Args:
            query: The query, with a `?` for each value.
            *values: The values.

        Raises:
            UserError: If SQLite fails.
        """
        row = self.fetch_one(query, *values)
        return int(row[0]) if row is not None and row[0] is not None else 0

    @contextlib.contextmanager
    def convert_errors(self) -> Iterator[None]:
        """Convert SQLite's errors inside the `with` block to `UserError`.

        Raises:
            UserError: If SQLite fails.
        """
        try:
            yield
        except sqlite3.Error as error:
            raise from_sqlite_error(error, self.path, self._schema.kind, self._schema.access_hint) from error

    def _connect(self, write: bool) -> sqlite3.Connection:
        # isolation_level None: transactions begin in `transaction` only, not implicitly.
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("SELECT 1 FROM sqlite_master")
        except sqlite3.OperationalError as error:
            connection.close()
            # A reader of a WAL database creates files next to it, which a read-only folder does not allow. They are not
            # needed if there is no write-ahead log: then no process is writing, and the database file is complete.
            refused = error.sqlite_errorcode in (sqlite3.SQLITE_READONLY_DIRECTORY, sqlite3.SQLITE_CANTOPEN)
            if write or not refused or self.path.with_name(f"{self.path.name}-wal").exists():
                raise
            uri = f"{self.path.absolute().as_uri()}?mode=ro&immutable=1"
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        return connection

    def _version(self) -> int:
        """Return how many migrations have been applied."""
        version = self.fetch_int("PRAGMA user_version")
        if version > len(self._schema.migrations):
            what = f"this {self._schema.kind} was written by a newer mlx-personal"
            raise UserError(what, self.path, "upgrade mlx-personal")
        return version

    def _migrate(self) -> None:
        """Apply the migrations that the database lacks, each in its own transaction."""
        kind, version, migrations = self._schema.kind, self._version(), self._schema.migrations
        for number, migration in enumerate(migrations[version:], start=version + 1):
            logger.debug("migrating a %s to version %d", kind, number)
            if isinstance(migration, str):
                self._connection.executescript(f"BEGIN; {migration}; PRAGMA user_version = {number}; COMMIT;")
            else:
                with self.transaction() as connection:
                    migration(connection)
                    connection.execute(f"PRAGMA user_version = {number}")


def _acquire_lock(path: Path, schema: DatabaseSchema) -> IO[str]:
    """Return the folder's lock file, locked until it is closed or the process ends."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise StorageError(
            f"this {schema.kind} is in use by another process ({holder})",
            path.parent,
            f"wait for it, or {schema.busy_hint}",
        ) from None
    file.truncate(0)
    file.write(f"pid {os.getpid()}")
    file.flush()
    return file
