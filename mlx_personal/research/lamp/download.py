"""Fetches LaMP's files from where its makers keep them. The outputs of the test splits are not public."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from mlx_personal import http_client
from mlx_personal.errors import UserError, from_os_error
from mlx_personal.progress import Progress
from mlx_personal.research.lamp.tasks import LampTask

Split = Literal["train", "dev", "test"]
Part = Literal["questions", "outputs"]
SPLITS: Final[tuple[Split, ...]] = ("train", "dev", "test")

_ROOT: Final = "https://ciir.cs.umass.edu/downloads/LaMP"
# The news came first and keep the place of LaMP_2; the movies, which took their name, lie beneath.
_FOLDERS: Final = {"2N": "LaMP_2", "2M": "LaMP_2/new"}


def url(task: LampTask, split: Split, part: Part, by_time: bool = False) -> str:
    """Where a file is; `by_time`: of the split in which every user is in all parts, the earlier items in the first."""
    folder = _FOLDERS.get(task.name, task.files[0])
    return f"{_ROOT}/{'time/' if by_time else ''}{folder}/{split}/{split}_{part}.json"


def download(
    task: LampTask,
    split: Split,
    folder: Path,
    *,
    by_time: bool = False,
    on_progress: Progress | None = None,
) -> list[Path]:
    """The files of a split under `folder`: questions, and outputs where they are public. What is there is kept.

    UserError where the network or the disk fails, or the server sends something else than the file.
    """
    parts: tuple[Part, ...] = ("questions",) if split == "test" else ("questions", "outputs")
    home = folder / ("time" if by_time else "user") / task.files[0]
    paths = []
    for part in parts:
        path = home / f"{split}_{part}.json"
        if not path.exists():
            _fetch(url(task, split, part, by_time), path, on_progress)
        paths.append(path)
    return paths


def _fetch(address: str, path: Path, on_progress: Progress | None) -> None:
    http_client.download(address, path, on_progress)
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
        # For a name that it does not know the server sends a page, with status 200.
        if not start.startswith((b"[", b"{")):
            path.unlink()
            raise UserError("the server sent a page, not LaMP's data", address, "see lamp-benchmark.github.io/download")
    except OSError as error:
        raise from_os_error(error, path) from error
