"""Read SQLite databases of other programs without changing anything beside them."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from mlx_personal.errors import DISK_HINT, StorageError, UserError, from_os_error

DATABASE_MAGIC: Final = b"SQLite format 3\0"
OpenBinary: TypeAlias = Callable[[], contextlib.AbstractContextManager[BinaryIO]]
# Of a damaged database, SQLite's messages and the names in it may be no UTF-8, which Python's module cannot decode.
_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)
_COPY_ATTEMPTS: Final = 3
_BUSY: Final = "close the program that writes it, and try again"
# The last bytes of a journal that names another file, which SQLite would delete after the rollback.
_JOURNAL_MAGIC: Final = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"


@contextlib.contextmanager
def open_foreign_database(
    path: Path | None, open_binary: OpenBinary, where: object, open_logs: Sequence[OpenBinary | None] = ()
) -> Iterator[sqlite3.Connection]:
    """Open another program's database for reading inside the `with` block, as of its last commit.

    A database with a log, or one that is not a file, is copied to a temporary folder that only its owner can read,
    because SQLite would write beside it: it adds what a write-ahead log has, and takes back what a rollback journal
    has. The copy has no name any more when the connection is yielded, so that a process that is killed while it reads
    leaves nothing. No lock is taken that the other program could wait for.

    Args:
        path: The database file; None if it is a member of an archive, or compressed.
        open_binary: Opens it for reading inside a `with` block.
        where: Its path for messages.
        open_logs: If it has no path, open its files of `log_files`, as far as it has them.

    Yields:
        The connection, with rows by name.

    Raises:
        UserError: If it cannot be read.
    """
    with contextlib.ExitStack() as stack:
        try:
            path = None if path is None else path.resolve()  # the logs are beside the file that a link leads to
            if path is not None and not any(map(_size, log_files(path))):
                uri = f"{path.as_uri()}?mode=ro&immutable=1"
                connection = stack.enter_context(contextlib.closing(sqlite3.connect(uri, uri=True)))
                _begin(connection)
            else:
                with tempfile.TemporaryDirectory(prefix="mlx-personal-") as folder:
                    copy = Path(folder) / "copy.db"
                    if path is not None:
                        _copy_with_logs(path, copy)
                    else:
                        for target, source in zip((copy, *log_files(copy)), (open_binary, *open_logs), strict=False):
                            _write(source, target)
                    _remove_magic(log_files(copy)[1])
                    connection = stack.enter_context(contextlib.closing(sqlite3.connect(copy)))
                    connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # no index of the log in a file
                    _begin(connection)
            yield connection
        except OSError as error:
            raise from_os_error(error, where) from error
        except _ERRORS as error:
            raise _user_error(error, where) from error


def log_files(path: Path) -> tuple[Path, ...]:
    """Return the files beside a database that SQLite keeps changes in, whether they exist or not.

    Args:
        path: The database file.
    """
    return tuple(path.with_name(f"{path.name}-{suffix}") for suffix in ("wal", "journal"))


def column_names(connection: sqlite3.Connection) -> frozenset[str]:
    """Return the columns of a database's tables as `table.column`, without tables that need a missing extension.

    Args:
        connection: The connection.
    """
    names = set()
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        try:
            columns = connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
        except (sqlite3.OperationalError, UnicodeDecodeError) as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) != sqlite3.SQLITE_ERROR:
                raise
            continue
        names |= {f"{table}.{name}" for (name,) in columns}
    return frozenset(names)


def _begin(connection: sqlite3.Connection) -> None:
    """Set up a connection, and read for the first time, at which SQLite opens or plays back the logs."""
    connection.row_factory = sqlite3.Row
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()


def _write(open_source: OpenBinary | None, target: Path) -> None:
    if open_source is not None:
        with open_source() as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)


def _copy_with_logs(path: Path, target: Path) -> None:
    """Copy a database with its logs, all of the same time."""
    for _ in range(_COPY_ATTEMPTS):
        before = [_state(file) for file in (path, *log_files(path))]
        for source, copy in zip((path, *log_files(path)), (target, *log_files(target)), strict=True):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(source, copy)
        if before == [_state(file) for file in (path, *log_files(path))]:
            return
        for copy in log_files(target):
            copy.unlink(missing_ok=True)
    raise UserError("is being written", path, _BUSY)


def _remove_magic(journal: Path) -> None:
    """Make a journal end before the mark after the name of another file, so that SQLite does not delete that file."""
    if _size(journal) < len(_JOURNAL_MAGIC):
        return
    with journal.open("r+b") as file:
        end = file.seek(-len(_JOURNAL_MAGIC), os.SEEK_END)
        if file.read() == _JOURNAL_MAGIC:
            file.truncate(end)


def _state(path: Path) -> tuple[int, int] | None:
    """Return the size of a file in bytes and the time of its last change; None if it does not exist."""
    try:
        information = path.stat()
    except OSError:
        return None
    return information.st_size, information.st_mtime_ns


def _size(path: Path) -> int:
    state = _state(path)
    return state[0] if state else 0


def _user_error(error: sqlite3.Error | UnicodeDecodeError, where: object) -> UserError:
    """Return the error for users. SQLite's own words are left out, because they may quote what is in the database."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StorageError("the disk is full", tempfile.gettempdir(), DISK_HINT)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        why, hint = "it is damaged", "copy or export it again while the program that writes it is closed"
    elif code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        why, hint = "it is in use", _BUSY
    elif code == sqlite3.SQLITE_ERROR:
        why, hint = "a table is missing, or needs an extension of SQLite", "check which program wrote it"
    else:
        why, hint = f"SQLite's error {code}", "copy it to another folder, and name the copy"
    return UserError(f"cannot be read as a database: {why}", where, hint)
