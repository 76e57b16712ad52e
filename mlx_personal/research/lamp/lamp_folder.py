"""The folder of a LaMP run: results and predictions as JSON Lines, one line for each user and method.

`results.jsonl` has no texts of the data, and its users are numbers, so that it can be published; a report needs nothing
else. The line of a setting comes before its results. `predictions.jsonl` has the answers. A run that was killed
continues from both, and a finished one has nothing to do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlx_personal.errors import Action, Remedy, UserError
from mlx_personal.research.lamp.lamp_config import PROTOCOL
from mlx_personal.research.lamp.lamp_results import MethodAnswers, MethodResult
from mlx_personal.research.lamp.lamp_users import FileCounts
from mlx_personal.research.lamp.metrics import num_statistics
from mlx_personal.research.lamp.tasks import TASKS, LampTask
from mlx_personal.research.results_file import append_result, read_results
from mlx_personal.storage.files import exclusive_lock

RESULTS: Final = "results.jsonl"
REPORT: Final = "report.md"
_PREDICTIONS: Final = "predictions.jsonl"

ResultsByMethod = dict[str, dict[int, MethodResult]]


@dataclass(frozen=True)
class LampSetting:
    """What the results of one table have in common, and these results.

    Attributes:
        task: Task of all users.
        metadata: Task, files, model and settings.
        counts: Counts of the files.
        results: Results of each method by the user's number in the file.
    """

    task: LampTask
    metadata: Mapping[str, Any]
    counts: FileCounts
    results: ResultsByMethod


@contextlib.contextmanager
def writable_folder(path: Path) -> Iterator[LampFolder]:
    """Open the folder of a run, and keep other processes from writing to it inside the `with` block.

    Args:
        path: The folder, which is created if it does not exist.

    Yields:
        The folder.

    Raises:
        UserError: If another process writes to it, or it cannot be read or written.
    """
    if path.is_file():
        raise UserError("is a file; a LaMP run is a folder", path, "name a folder")
    with exclusive_lock(path / ".lock", wait=False):
        yield LampFolder(path)


class LampFolder:
    """The results of a LaMP run.

    Args:
        path: The folder, or its file of results alone, which can be read only.

    Raises:
        UserError: If this version cannot read it.
    """

    def __init__(self, path: Path):
        if (path / "lamp.db").exists():
            raise UserError("is a LaMP run of version 0.1, which cannot be read", path, "name another folder")
        self.path = path
        self.settings: dict[str, LampSetting] = {}
        self.num_outdated = 0
        self._file = path if path.is_file() else path / RESULTS
        for number, row in enumerate(read_results(self._file), 1):
            with _readable(self._file, number):
                self._add_row(row)

    @property
    def has_results(self) -> bool:
        """Whether there are results of this version."""
        return any(setting.results for setting in self.settings.values())

    def require_results(self) -> None:
        """Check that there is anything to report.

        Raises:
            UserError: If there are no results of this version.
        """
        if self.has_results:
            return
        if self.num_outdated:
            what = f"all {self.num_outdated} results are of another version of mlx-personal"
            raise UserError(what, self._file, "name another folder")
        remedy = None if self.path.is_file() else Remedy(Action.RUN_LAMP, {"folder": str(self.path)})
        raise UserError("there are no results of a LaMP run here", self.path, remedy=remedy)

    def add_setting(self, setting: str, metadata: Mapping[str, Any], counts: FileCounts) -> None:
        """Store what the hash of a setting stands for, and the counts of its files if they have more users than before.

        Args:
            setting: Hash of the metadata.
            metadata: What decides the results of all users.
            counts: Counts of the files.
        """
        known = self.settings.get(setting)
        if known is None or counts.users > known.counts.users:
            self._append({"setting": setting, "metadata": dict(metadata), "files": asdict(counts)})

    def add_answers(self, setting: str, user: int, method: str, answers: MethodAnswers) -> None:
        """Store a result, replacing an earlier one.

        Args:
            setting: Hash of the setting.
            user: Number of the user in the file.
            method: Name of the method.
            answers: The answers; they are stored first, so that no result is without them.
        """
        row = {"setting": setting, "user": user, "method": method}
        append_result(self.path / _PREDICTIONS, {**row, "predictions": answers.predictions})
        self._append({**row, "result": asdict(answers.result)})

    def result(self, setting: str, user: int, method: str) -> MethodResult | None:
        """Return a stored result; None if there is none."""
        return self.settings[setting].results.get(method, {}).get(user)

    def predictions(self, setting: str) -> dict[str, dict[int, dict[str, str]]]:
        """Return the predictions of each method by the user's number, in this order."""
        predictions: dict[str, dict[int, dict[str, str]]] = {}
        file = self.path / _PREDICTIONS
        for number, row in enumerate(read_results(file), 1):
            with _readable(file, number):
                if row["setting"] == setting:
                    predictions.setdefault(row["method"], {})[int(row["user"])] = dict(row["predictions"])
        return {method: dict(sorted(of_method.items())) for method, of_method in predictions.items()}

    def _append(self, row: dict[str, Any]) -> None:
        append_result(self._file, row)
        self._add_row(row)

    def _add_row(self, row: Mapping[str, Any]) -> None:
        name = row["setting"]
        if "metadata" in row:
            if row["metadata"]["protocol"] == PROTOCOL:
                results = self.settings[name].results if name in self.settings else {}
                task, counts = TASKS[row["metadata"]["task"]], FileCounts(**row["files"])
                self.settings[name] = LampSetting(task, row["metadata"], counts, results)
        elif name not in self.settings:
            self.num_outdated += 1
        else:
            setting, result = self.settings[name], MethodResult(**row["result"])
            if np.array(result.sums, np.float64).shape != (num_statistics(setting.task),):
                raise ValueError(f"other scores than those of LaMP-{setting.task.name}")
            setting.results.setdefault(row["method"], {})[int(row["user"])] = result


@contextlib.contextmanager
def _readable(file: Path, number: int) -> Iterator[None]:
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"line {number} is not one that this version of mlx-personal can read ({error!r})"
        raise UserError(what, file, "upgrade mlx-personal, or name another folder") from error
