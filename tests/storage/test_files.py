"""Atomic files and folders: complete or not there at all, whatever fails."""

from __future__ import annotations

import errno
import io
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from mlx_personal.errors import StorageError, UserError
from mlx_personal.storage.files import (
    atomic_file,
    atomic_folder,
    atomic_write,
    check_writable,
    remove_partials,
    temporary_copy,
)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing a file fails as on a full disk."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("content", "expected"), [("Grüße", "Grüße".encode()), (b"\x00\xff", b"\x00\xff")])
def test_a_file_is_written_and_replaced(tmp_path: Path, content: str | bytes, expected: bytes) -> None:
    path = tmp_path / "new" / "file"
    atomic_write(path, b"old")
    atomic_write(path, content)
    assert path.read_bytes() == expected
    assert names(path.parent) == ["file"]


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["file"]


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UserError, match="the disk is full; free some space"):
        atomic_write(path, "new")
    assert path.read_text() == "old" and names(tmp_path) == ["file"]


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with atomic_folder(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("a")
        assert not path.exists()
    assert (path / "sub" / "file").read_text() == "a"
    assert path.stat().st_mode & 0o777 == 0o755
    assert names(path.parent) == ["folder"]


def test_an_existing_folder_is_only_replaced_on_request(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with atomic_folder(path) as folder:  # An empty folder may be replaced.
        (folder / "file").write_text("first")
    with pytest.raises(UserError, match="already exists; name a new folder"), atomic_folder(path):
        pass
    with pytest.raises(ZeroDivisionError), atomic_folder(path, replace=True):
        raise ZeroDivisionError
    assert (path / "file").read_text() == "first"
    with atomic_folder(path, replace=True) as folder:
        (folder / "file").write_text("second")
    assert (path / "file").read_text() == "second" and names(tmp_path) == ["folder"]


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the disk is full"), atomic_folder(tmp_path / "folder") as folder:
        (folder / "file").write_text("a")
    assert names(tmp_path) == []


def test_a_path_is_checked_before_it_is_written(tmp_path: Path) -> None:
    check_writable(tmp_path / "file")
    assert names(tmp_path) == []
    with pytest.raises(UserError, match="is a folder or a device; name a file"):
        check_writable(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        check_writable(tmp_path / "missing" / "file")


def test_only_partial_files_and_folders_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".file.x.partial").write_text("half")
    (tmp_path / ".folder.x.partial").mkdir()
    (tmp_path / ".folder.x.partial" / "file").write_text("half")
    (tmp_path / ".hidden").write_text("a")
    (tmp_path / "file.partial").write_text("a")
    remove_partials(tmp_path)
    assert names(tmp_path) == [".hidden", "file.partial"]


def test_a_temporary_copy_can_be_read_at_any_place_by_its_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = bytes(range(256)) * 8192  # two chunks
    with temporary_copy(io.BytesIO(data)) as copy:
        assert copy.read() == data
        copy.seek(-3, os.SEEK_END)
        assert copy.read() == data[-3:]
        assert stat.S_IMODE(os.fstat(copy.fileno()).st_mode) == 0o600
        assert names(tmp_path) == [], "a process that is killed leaves nothing"


def test_a_full_disk_is_no_fault_of_what_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda prefix: Full())
    with pytest.raises(StorageError, match=rf"^{tmp_path}: the disk is full"), temporary_copy(io.BytesIO(b"x")):
        pass
