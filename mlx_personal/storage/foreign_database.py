"""Read SQLite databases of other programs without changing anything beside them."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from mlx_personal.errors import UserError, from_os_error

_BUSY_HINT = "close the program that writes it, and try again"


@contextlib.contextmanager
def open_foreign_database(path: Path | None, open_binary: Callable[[], BinaryIO]) -> Iterator[sqlite3.Connection]:
    """Open another program's database for reading inside the `with` block, with its write-ahead log.

    A database with a log, or one that is not a file, is copied to a temporary folder that only its owner can read,
    because SQLite would write beside it. No lock is taken that the other program could wait for.

    Args:
        path: The database file; None if it is a member of an archive.
        open_binary: Opens it for reading.

    Yields:
        The connection, with rows by name.

    Raises:
        UserError: If it cannot be read.
    """
    with contextlib.ExitStack() as stack:
        try:
            if path is not None and not _has_log(path):
                uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
            else:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlx-personal-")))
                copy = folder / "copy.db"
                with open_binary() as source, copy.open("wb") as target:
                    shutil.copyfileobj(source, target)
                if path is not None:
                    shutil.copyfile(_log(path), _log(copy))
                uri = copy.as_uri()
            connection = stack.enter_context(contextlib.closing(sqlite3.connect(uri, uri=True)))
        except OSError as error:
            raise from_os_error(error, path) from error
        except sqlite3.Error as error:
            raise UserError(f"cannot be read as a database ({error})", path, _BUSY_HINT) from error
        connection.row_factory = sqlite3.Row
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        connection.execute("PRAGMA trusted_schema = OFF")
        try:
            yield connection
        except sqlite3.Error as error:
            raise UserError(f"cannot be read as a database ({error})", path, _BUSY_HINT) from error


def column_names(connection: sqlite3.Connection) -> frozenset[str]:
    """Return the columns of a database's tables as `table.column`.

    Args:
        connection: The connection.
    """
    rows = connection.execute(
        "SELECT tables.name AS name, columns.name AS column_name FROM sqlite_master AS tables"
        " JOIN pragma_table_info(tables.name) AS columns WHERE tables.type = 'table'"
    )
    return frozenset(f"{row['name']}.{row['column_name']}" for row in rows)


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _has_log(path: Path) -> bool:
    try:
        return _log(path).stat().st_size > 0
    except OSError:
        return False
