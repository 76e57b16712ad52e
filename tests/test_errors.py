"""Errors of files and databases: which ones another input would not have, and which ones every input would have."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from mlx_personal.errors import StorageError, UserError, from_os_error, from_sqlite_error


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "cannot write or read here"),
        (errno.EACCES, "cannot write or read here"),
        (errno.EIO, "input/output error"),
        (errno.EMFILE, "too many open files"),
        (errno.EFBIG, "file too large"),
    ],
)
def test_a_failing_disk_is_not_an_error_of_the_input(number: int, what: str) -> None:
    error = from_os_error(OSError(number, errno.errorcode[number] if what.startswith("c") else what), "file")
    assert isinstance(error, StorageError)
    assert error.line().startswith(f"file: {what}") and "\n" not in error.line()


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file"),
        IsADirectoryError(errno.EISDIR, "Is a directory"),
        OSError(errno.ENAMETOOLONG, "File name too long"),
        OSError("Not a gzipped file"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset"),
        TimeoutError(errno.ETIMEDOUT, "timed out"),
    ],
)
def test_a_wrong_name_or_content_is_an_error_of_the_input(error: OSError) -> None:
    assert type(from_os_error(error, "file")) is UserError


def test_every_error_of_a_database_is_a_storage_error(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "full.db")
    connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.Error) as full:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    (tmp_path / "text.db").write_text("not a database, but a text that is long enough for its header" * 20)
    connection = sqlite3.connect(tmp_path / "text.db")
    with pytest.raises(sqlite3.Error) as damaged:
        connection.execute("SELECT * FROM sqlite_master")
    connection.close()
    for caught, what in ((full, "the disk is full"), (damaged, "the profile's database is damaged")):
        error = from_sqlite_error(caught.value)
        assert isinstance(error, StorageError) and error.what.startswith(what)
