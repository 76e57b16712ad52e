"""The files of a path: a file, those of a folder and of the zips in it, the members of a zip, or standard input.

Nothing outside a named path is opened: links that lead out of a folder are skipped.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mlx_personal.errors import StorageError, UserError, escape_surrogates, from_os_error
from mlx_personal.importers.archives import GZIP_MAGIC, ZIP_MAGIC, gzip_document, zip_documents
from mlx_personal.importers.conversation import Skipped
from mlx_personal.importers.document import Document
from mlx_personal.importers.file_names import is_ignored
from mlx_personal.importers.standard_input import read_standard_input


def open_documents(path: Path) -> Iterator[Document | Skipped]:
    """Yield the files of a path that may contain conversations.

    Args:
        path: A file, a folder, or a zip. `-` is standard input.

    Yields:
        Each file in order of its name, or why it is left out.

    Raises:
        UserError: If the path does not exist, or it is a zip that cannot be read.
    """
    if str(path) == "-":
        yield from read_standard_input()
        return
    path = path.expanduser()
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise from_os_error(error, path) from error
    if stat.S_ISDIR(mode):
        yield from _folder(path)
    elif not stat.S_ISREG(mode):
        raise UserError("is neither a file nor a folder", path, "name a file")
    elif _begins_with(path, *ZIP_MAGIC):
        yield from zip_documents(path, escape_surrogates(path))
    else:
        yield _file(path, path.name)


def file_document(path: Path) -> Document:
    """Return a file that is named itself, decompressed if it is a gzip file.

    Args:
        path: The file.

    Raises:
        UserError: If it does not exist, or is no file.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise from_os_error(error, path) from error
    if stat.S_ISDIR(mode):
        raise UserError("is a folder, not a file", path, "name the files in it")
    if not stat.S_ISREG(mode):
        raise UserError("is neither a file nor a folder", path, "name a file")
    return _file(path, path.name)


def _folder(folder: Path) -> Iterator[Document | Skipped]:
    """Yield the files below a folder and the members of the zips in it, without following links."""
    siblings: dict[str, Document] = {}
    archives: list[tuple[Path, str]] = []
    skipped: list[Skipped] = []

    def on_error(error: OSError) -> None:
        skipped.append(Skipped(escape_surrogates(error.filename), "cannot be read", is_damaged=True))

    for parent, folders, names in os.walk(folder, onerror=on_error):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        skipped += [
            Skipped(escape_surrogates(Path(parent) / name), "a link")
            for name in folders
            if (Path(parent) / name).is_symlink()
        ]
        for name in sorted(names):
            path = Path(parent) / name
            relative = path.relative_to(folder).as_posix()
            if name.startswith(".") or is_ignored(name):
                continue
            try:
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode) and path.suffix.lower() == ".zip" and _begins_with(path, *ZIP_MAGIC):
                    archives.append((path, relative))
                elif stat.S_ISREG(mode):
                    siblings[relative] = replace(_file(path, relative), siblings=siblings)
                else:
                    reason = "a link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                    skipped.append(Skipped(escape_surrogates(path), reason))
            except (OSError, UserError):
                skipped.append(Skipped(escape_surrogates(path), "cannot be read", is_damaged=True))
    yield from skipped
    yield from list(siblings.values())
    for path, relative in archives:
        try:
            yield from zip_documents(path, escape_surrogates(path), f"{relative}/")
        except StorageError:
            raise
        except UserError as error:
            yield Skipped(escape_surrogates(path), error.what, is_damaged=True)


def _file(path: Path, name: str) -> Document:
    if _begins_with(path, GZIP_MAGIC):
        return gzip_document(path, name)
    return Document(name, escape_surrogates(path), path.stat().st_size, lambda: path.open("rb"), path)


def _begins_with(path: Path, *magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(magic)
    except OSError as error:
        raise from_os_error(error, path) from error
