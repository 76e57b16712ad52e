"""One model in a store, and the walk through a store's folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_personal.errors import from_os_error

_FURTHER_PART = re.compile(r"-(?!00001-)\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
# The vision or audio part of a model, which is stored in a file of its own.
_PROJECTOR = re.compile(r"^mmproj|[-_.]mmproj[-_.]", re.IGNORECASE)


@dataclass(frozen=True)
class StoreEntry:
    """A model as a store lists it; nothing of it was read yet.

    Attributes:
        name: The name by which it can be loaded.
        path: Its folder, or its GGUF file.
        problem: Why it cannot be loaded, or None.
        hint: What to do about the problem.
    """

    name: str
    path: Path
    problem: str | None = None
    hint: str | None = None


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones; none if it does not exist.

    Args:
        folder: The folder.

    Raises:
        OSError: If it cannot be read.
    """
    return [path for path in _visible(folder) if path.is_dir()]


def files(folder: Path) -> list[Path]:
    """Return the files in a folder, sorted, without hidden ones; none if it does not exist.

    Args:
        folder: The folder.

    Raises:
        OSError: If it cannot be read.
    """
    return [path for path in _visible(folder) if path.is_file()]


def gguf_models(folder: Path) -> list[Path]:
    """Return the GGUF files in a folder that a model can be loaded from, sorted.

    Of a model that is split into several files only the first is returned.

    Args:
        folder: The folder.

    Raises:
        OSError: If it cannot be read.
    """
    names = [path for path in files(folder) if path.suffix.lower() == ".gguf"]
    return [path for path in names if not _FURTHER_PART.search(path.name) and not _PROJECTOR.search(path.name)]


def unreadable(folder: Path, error: OSError) -> StoreEntry:
    """Return the entry that stands for a folder that cannot be read.

    Args:
        folder: The folder.
        error: What reading it raised.
    """
    return StoreEntry(str(folder), folder, from_os_error(error, folder).what)


def distinct(folders: Sequence[Path]) -> Iterator[Path]:
    """Yield folders that exist, each once, also where several paths lead to it.

    Args:
        folders: The folders.
    """
    seen: set[str] = set()
    for folder in folders:
        real = os.path.realpath(folder)
        if real not in seen and os.path.isdir(real):
            seen.add(real)
            yield folder


def user_path(path: str) -> Path:
    """Return a path in which `~` stands for the user's folder.

    Args:
        path: The path.
    """
    return Path(os.path.expanduser(path))


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
