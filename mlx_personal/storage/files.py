"""Files that are there whole or not at all: written beside their place, forced to the disk, then renamed.

Adapters and exports go through here, so that a full disk, a crash or a pulled plug leaves what was there before.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mlx_personal.errors import UserError, from_os_error


def atomic_write(path: Path, content: str | bytes) -> None:
    """Puts `content` (text as UTF-8) at `path`, replacing what is there; UserError if the disk refuses."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which replaces what is at `path` when the block ends and vanishes when it raises.

    UserError if the disk refuses.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
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
    """UserError where no file can be written at `path`: to be asked before hours of work, not after them."""
    try:
        if path.exists() and not path.is_file():
            raise UserError("is a folder or a device", path, "name a file")
        # As `atomic_file` begins; permissions alone would not tell of a system that is mounted read-only.
        descriptor, tried = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        os.close(descriptor)
        os.unlink(tried)
    except OSError as error:
        raise from_os_error(error, path) from error


@contextlib.contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """A new folder to fill, which becomes `path` when the block ends and vanishes when it raises.

    UserError if something is at `path` already (an empty folder aside) and it may not `replace` it, or if the disk
    refuses. What it replaces stays until the new one is whole.
    """
    temporary: Path | None = None
    try:
        if not replace and path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise UserError("exists already", path, "name a new folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        _sync_folder(temporary)
        temporary.chmod(0o755)
        # A folder that is not empty cannot be renamed over: for a moment neither is there.
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)) if replace else None
        if old is not None and path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        _sync_folder(path.parent)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise from_os_error(error, path) from error
        raise


def remove_partials(folder: Path) -> None:
    """Removes what a killed process left half written in `folder`; only for whoever holds the profile's lock."""
    for partial in folder.glob(".*.partial"):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder as durable as the files; a rename is not, until its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
