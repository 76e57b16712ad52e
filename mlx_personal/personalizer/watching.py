"""Watch folders and databases of other programs: import the files that changed since the last time.

There is no background process: the caller of `poll` decides when.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlx_personal.errors import StorageError, UserError, escape_surrogates, from_os_error
from mlx_personal.importers.conversation import Skipped
from mlx_personal.importers.document import Document
from mlx_personal.importers.head import read_head
from mlx_personal.importers.paths import open_documents
from mlx_personal.importers.registry import detect, importer_named
from mlx_personal.personalizer.importing import ImportOptions, ImportResult, import_paths
from mlx_personal.profile import Store
from mlx_personal.profile.watched_folders import FileState, WatchedFolderRow
from mlx_personal.progress import Progress
from mlx_personal.storage.foreign_database import log_files

# Files of a folder that are looked at to see whether anything in it can be imported.
_CHECKED_FILES: Final = 200


@dataclass(frozen=True)
class Poll:
    """What polling a watched folder brought.

    Attributes:
        path: The folder.
        changed: Number of files that were new or had changed.
        result: What was imported; None if nothing was.
        problem: Why the folder or the changed files could not be read, on one line; empty if they could.
    """

    path: str
    changed: int
    result: ImportResult | None = None
    problem: str = ""


def watch(store: Store, path: Path, format_name: str | None = None) -> str:
    """Watch a folder or file.

    Args:
        store: The profile's store.
        path: The folder or file.
        format_name: Name of the format of all its files; None to recognize each one.

    Returns:
        Its absolute path, by which it is known.

    Raises:
        UserError: If it does not exist, or it has files and none of the first ones can be imported.
    """
    if format_name is not None:
        importer_named(format_name)
    absolute = _absolute(path)
    documents = (document for document in open_documents(absolute) if isinstance(document, Document))
    checked = list(itertools.islice(documents, _CHECKED_FILES))
    if checked and format_name is None and not any(map(_can_be_imported, checked)):
        raise UserError("has no file in a format that can be read", absolute, "see the formats in the documentation")
    store.watched.add(str(absolute), format_name or "")
    return str(absolute)


def unwatch(store: Store, path: Path) -> str:
    """Stop watching a folder or file, and return its absolute path.

    Args:
        store: The profile's store.
        path: The folder or file.

    Raises:
        UserError: If it is not watched.
    """
    absolute = str(_absolute(path))
    if not store.watched.remove(absolute):
        raise UserError("is not watched", absolute, "name a watched folder")
    return absolute


def poll(store: Store, on_progress: Progress | None = None) -> list[Poll]:
    """Import the new and changed files of all watched folders.

    Args:
        store: The profile's store.
        on_progress: Receives events of stage `reading`, in bytes.

    Returns:
        What each folder brought. A folder that cannot be read does not keep others from being read.

    Raises:
        StorageError: If the profile cannot be written.
    """
    return [_poll_folder(store, row, on_progress) for row in store.watched.all()]


def _poll_folder(store: Store, row: WatchedFolderRow, on_progress: Progress | None) -> Poll:
    path = Path(row.path)
    try:
        files = _states(path)
    except UserError as error:
        return Poll(row.path, 0, problem=error.line())
    changed = {name for name, state in files.items() if row.files.get(name) != state}
    result, problem = None, ""
    if changed:
        options = ImportOptions(format=row.format or None)
        try:
            result = import_paths(store, [path], options, on_progress, wanted=lambda file: _name(file) in changed)
        except StorageError:
            raise
        except UserError as error:
            problem = error.line()
    store.watched.record_poll(row.path, files)
    return Poll(row.path, len(changed), result, problem)


def _states(path: Path) -> dict[str, FileState]:
    """Return the state of each file of a folder, before it is read: what changes meanwhile is read the next time.

    One that cannot be read has a name and a state of its own: it is reported once, and read as soon as it can be.
    """
    states: dict[str, FileState] = {}
    for document in open_documents(path):
        if isinstance(document, Document):
            file = document.path or document.archive or path
            states[_name(document)] = tuple(part for each in (file, *log_files(file)) for part in _state(each))
        elif document.is_damaged:
            states[_name(document)] = ()
    return states


def _name(document: Document | Skipped) -> str:
    """Return the name of a file in the folder; of one that cannot be read, its whole path."""
    return document.name if isinstance(document, Document) else document.where


def _state(file: Path) -> FileState:
    """Return the size and the time of change of a file, or nothing if it cannot be read."""
    try:
        information = file.stat()
    except OSError:
        return ()
    return (information.st_size, information.st_mtime_ns) if os.access(file, os.R_OK) else ()


def _can_be_imported(document: Document) -> bool:
    try:
        importer = detect(read_head(document))
    except UserError:
        return False
    return importer is not None and not importer.refuses


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        if isinstance(error, OSError):
            raise from_os_error(error, path) from error
        raise UserError("cannot be found", escape_surrogates(path), "name a folder") from error
