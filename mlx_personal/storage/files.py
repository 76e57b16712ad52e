"""Write files and folders atomically: next to their destination, synced to disk, then renamed.

After a full disk, a crash or a power failure the previous version is still there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from mlx_personal.errors import UserError, from_os_error

_CHUNK_BYTES: Final = 1_048_576


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file, replacing an existing one.

    Args:
        path: The file.
        content: Its content; text is encoded as UTF-8.

    Raises:
        UserError: If the file cannot be written.
    """
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` when the `with` block ends and is removed if it raises.

    Args:
        path: The file to write.

    Yields:
        The temporary file.

    Raises:
        UserError: If the file cannot be written.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = _temporary_file(path)
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise from_os_error(error, path) from error
        raise


def check_writable(path: Path) -> None:
    """Check that a file can be written, before hours of work whose result it will store.

    Args:
        path: The file.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError("is a folder or a device", path, "name a file")
        # Permissions alone would not reveal a file system that is mounted read-only.
        descriptor, temporary = _temporary_file(path)
        os.close(descriptor)
        os.unlink(temporary)
    except OSError as error:
        raise from_os_error(error, path) from error


@contextlib.contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Create a temporary folder that becomes `path` when the `with` block ends and is removed if it raises.

    A folder that is replaced stays until the new one is complete.

    Args:
        path: The folder to create.
        replace: Whether it may replace an existing folder.

    Yields:
        The temporary folder.

    Raises:
        UserError: If `path` exists, is not an empty folder and may not be replaced, or if it cannot be written.
    """
    temporary: Path | None = None
    try:
        if not replace and path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise UserError("already exists", path, "name a new folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_folder(path)
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync_file(file)
        _sync_folder(temporary)
        temporary.chmod(0o755)
        # A non-empty folder cannot be replaced by renaming, so for a moment there is none at `path`.
        replaced = _temporary_folder(path) if replace else None
        if replaced is not None and path.exists():
            os.replace(path, replaced)
        os.replace(temporary, path)
        _sync_folder(path.parent)
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise from_os_error(error, path) from error
        raise


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Create a folder that is removed when the `with` block ends; `remove_partials` removes a killed process's one.

    Args:
        parent: The folder to create it in.

    Yields:
        The temporary folder.

    Raises:
        UserError: If it cannot be created.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_folder(parent / "temporary")
    except OSError as error:
        raise from_os_error(error, parent) from error
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def temporary_copy(source: BinaryIO) -> Iterator[BinaryIO]:
    """Copy a stream to a temporary file inside the `with` block, to read it at any place.

    Only its owner can read the file, and it has no name, so that a process that is killed leaves nothing.

    Args:
        source: The stream.

    Yields:
        The file, at its beginning.

    Raises:
        UserError: If it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(prefix="mlx-personal-"))
        except OSError as error:
            raise from_os_error(error) from error
        while chunk := source.read(_CHUNK_BYTES):
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                raise from_os_error(error, tempfile.gettempdir()) from error
        file.seek(0)
        yield file


@contextlib.contextmanager
def exclusive_lock(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock file inside the `with` block.

    Args:
        path: The lock file, which is created and stays.
        wait: Whether to wait for another process that holds it.

    Raises:
        UserError: If it cannot be created, or another process holds it and is not waited for.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise from_os_error(error, path) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            what = "the folder is in use by another process"
            raise UserError(what, path.parent, "wait for it to finish") from error
        yield


def remove_partials(folder: Path) -> None:
    """Remove temporary files and folders that a killed process left in a folder.

    Only the process that has locked the folder may call this.

    Args:
        folder: The folder.
    """
    for partial in folder.glob(".*.partial"):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _temporary_file(path: Path) -> tuple[int, str]:
    return tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)


def _temporary_folder(path: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))


def _sync_file(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    """Sync a folder: a rename is not durable before that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
