"""GGUF files converted to model folders in the home: each file once, whatever name it was given by.

A converted folder is named after its model and the SHA-256 of the file. Hashing gigabytes takes seconds, so an index
maps the path, size and modification time of a file to its hash.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_personal.errors import UserError, from_os_error
from mlx_personal.models.gguf.file import file_hash, read_gguf
from mlx_personal.models.stores.entry import StoreEntry, subfolders, unreadable
from mlx_personal.models.stores.model_source import ModelSource, write_source
from mlx_personal.progress import Progress
from mlx_personal.storage.files import atomic_write, exclusive_lock, remove_partials

logger = logging.getLogger(__name__)

_INDEX_FILE = "index.json"
_LOCK_FILE = ".lock"
_HASH_CHARACTERS = 12
_MAX_NAME_CHARACTERS = 48


def entries(folder: Path) -> Iterator[StoreEntry]:
    """Yield the converted models.

    Args:
        folder: The folder of converted models.
    """
    try:
        for model in subfolders(folder):
            yield StoreEntry(model.name, model)
    except OSError as error:
        yield unreadable(folder, error)


def convert_once(
    path: Path,
    name: str,
    folder: Path,
    expected_sha256: str | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Return the folder of a converted GGUF file, after converting it if this was not done before.

    Processes that convert at the same time wait for each other.

    Args:
        path: The GGUF file.
        name: The name that the file was given by.
        folder: The folder of converted models, which need not exist.
        expected_sha256: Hash that the file must have; None for any.
        on_progress: Receives the events of `convert_gguf`.

    Raises:
        UserError: If the file has another hash, is damaged or of a kind that is not supported, or the disk is full.
    """
    from mlx_personal.models.gguf.convert import convert_gguf

    file = read_gguf(path)
    known = _indexed_hash(folder, file.paths)
    if known is not None and (found := _folder_of(folder, known)) is not None:
        return found
    with exclusive_lock(folder / _LOCK_FILE):
        remove_partials(folder)  # of a conversion that was killed
        sha256 = known or file_hash(file.paths)
        if expected_sha256 not in (None, sha256):
            raise UserError("is damaged: its content has another SHA-256 than its name says", path, "download it again")
        _add_to_index(folder, file.paths, sha256)
        found = _folder_of(folder, sha256)
        if found is None:
            logger.info("converting %s", path)
            found = folder / _folder_name(file.name, file.quantization, sha256)
            convert_gguf(path, found, sha256=sha256, on_progress=on_progress)
            write_source(found, ModelSource(name, str(path), sha256))
    return found


def delete_converted(folder: Path, name: str) -> int:
    """Delete a converted model.

    Args:
        folder: The folder of converted models.
        name: Name of the model.

    Returns:
        The number of bytes that were freed.

    Raises:
        UserError: If there is no converted model of this name, or it cannot be deleted.
    """
    model = folder / name
    if model not in subfolders(folder):
        raise UserError("there is no converted model of this name", name)
    try:
        with exclusive_lock(folder / _LOCK_FILE):
            size = sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
            # Renamed first, so that no part of it is taken for the whole model if this is interrupted.
            hidden = folder / f".{name}.partial"
            os.replace(model, hidden)
            shutil.rmtree(hidden)
    except OSError as error:
        raise from_os_error(error, model) from error
    return size


def _folder_name(name: str, quantization: str, sha256: str) -> str:
    """Return the name of a converted model's folder."""
    words = re.sub(r"[^A-Za-z0-9._]+", "-", f"{name[:_MAX_NAME_CHARACTERS]}-{quantization}").strip("-.")
    return f"{words.lower()}-{sha256[:_HASH_CHARACTERS]}"


def _folder_of(folder: Path, sha256: str) -> Path | None:
    """Return the converted model of a file's hash, or None."""
    found = sorted(folder.glob(f"[!.]*-{sha256[:_HASH_CHARACTERS]}"))
    return found[0] if found else None


def _indexed_hash(folder: Path, paths: tuple[Path, ...]) -> str | None:
    """Return the hash of files that have not changed since it was computed, or None."""
    entry = _read_index(folder).get(os.path.realpath(paths[0]))
    if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
        return None
    return entry["sha256"] if {**entry, **_state(paths)} == entry else None


def _add_to_index(folder: Path, paths: tuple[Path, ...], sha256: str) -> None:
    index = _read_index(folder)
    index = {path: entry for path, entry in index.items() if os.path.exists(path)}
    index[os.path.realpath(paths[0])] = {**_state(paths), "sha256": sha256}
    atomic_write(folder / _INDEX_FILE, json.dumps(index, indent=1))


def _read_index(folder: Path) -> dict[str, Any]:
    """Return the index; an unreadable one counts as empty, because it only saves time."""
    try:
        index = json.loads((folder / _INDEX_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return index if isinstance(index, dict) else {}


def _state(paths: tuple[Path, ...]) -> dict[str, list[int]]:
    """Return what changes when a file is written again."""
    try:
        states = [path.stat() for path in paths]
    except OSError as error:
        raise from_os_error(error) from error
    return {"bytes": [state.st_size for state in states], "modified_ns": [state.st_mtime_ns for state in states]}
