"""Download LaMP's files from the server of its authors. The outputs of the test splits are not public."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from mlx_personal import http_client
from mlx_personal.errors import UserError, from_os_error
from mlx_personal.progress import Progress
from mlx_personal.research.lamp.tasks import LampTask

Split = Literal["train", "dev", "test"]
FileKind = Literal["questions", "outputs"]
SPLITS: Final[tuple[Split, ...]] = ("train", "dev", "test")

_ROOT: Final = "https://ciir.cs.umass.edu/downloads/LaMP"
# The news task was published first as LaMP_2; the movie task took the name later and is stored below it.
_FOLDERS: Final = {"2N": "LaMP_2", "2M": "LaMP_2/new"}


def file_url(task: LampTask, split: Split, kind: FileKind, by_time: bool = False) -> str:
    """Return the address of a file.

    Args:
        task: Task of the file.
        split: Split of the file.
        kind: Questions or outputs.
        by_time: Use the time-based split, in which every user is in all splits and the earlier items in the first.
    """
    folder = _FOLDERS.get(task.name, task.file_names[0])
    return f"{_ROOT}/{'time/' if by_time else ''}{folder}/{split}/{split}_{kind}.json"


def download_split(
    task: LampTask,
    split: Split,
    folder: Path,
    *,
    by_time: bool = False,
    on_progress: Progress | None = None,
) -> list[Path]:
    """Download the questions of a split, and the outputs where they are public. Existing files are kept.

    Args:
        task: Task to download.
        split: Split to download.
        folder: Folder that the files are written below.
        by_time: Download the time-based split.
        on_progress: Called with the progress of each file.

    Returns:
        The paths of the files.

    Raises:
        UserError: If the network fails, the file cannot be written, or the server sends something other than the file.
    """
    kinds: tuple[FileKind, ...] = ("questions",) if split == "test" else ("questions", "outputs")
    task_folder = folder / ("time" if by_time else "user") / task.file_names[0]
    paths = []
    for kind in kinds:
        path = task_folder / f"{split}_{kind}.json"
        if not path.exists():
            _download_file(file_url(task, split, kind, by_time), path, on_progress)
        paths.append(path)
    return paths


def _download_file(url: str, path: Path, on_progress: Progress | None) -> None:
    http_client.download(url, path, on_progress)
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
        # For an unknown address the server sends a web page, with status 200.
        if not start.startswith((b"[", b"{")):
            path.unlink()
            raise UserError("the server sent a page, not LaMP's data", url, "see lamp-benchmark.github.io/download")
    except OSError as error:
        raise from_os_error(error, path) from error
