"""The two jobs of each user, in a worker process that keeps its model from one to the next: before the server's part
and after it.

A job gets all it needs in its argument and gives back all that came of it: it writes no file that outlives it, so it
may run on any machine that has the package and sees the model's folder.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_personal.augmentation import device
from mlx_personal.augmentation.config import AugmentConfig
from mlx_personal.augmentation.device import Prepared, Synthetic
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.models.cached_model import cached_model


@dataclass(frozen=True)
class User:
    """One user's records; `model`: folder of the base; `skipped`: how many were left out for which reason."""

    name: str
    task: Task
    records: tuple[Record, ...]
    model: str
    config: AugmentConfig
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)


def prepare(user: User) -> Prepared:
    """What is asked for this user."""
    return device.prepare(cached_model(user.model), user.name, user.task, user.records, user.config)


@dataclass(frozen=True)
class Lesson:
    """A user, what was asked, and the answers to it, None for a request without one."""

    user: User
    prepared: Prepared
    answers: Sequence[str | None]


@dataclass(frozen=True)
class Learnt:
    """A user's adapter, by file name, and how it came about.

    Args:
        made: the synthetic records that were kept, and the fate of all.
        loss: of the last epoch; rows: that were learnt, truncated: of them those that lost their beginning.
        seconds: of judging and training.
    """

    files: dict[str, bytes]
    made: Synthetic
    loss: float
    rows: int
    truncated: int
    seconds: float


def learn(lesson: Lesson) -> Learnt:
    """Judges the answers and trains the user's adapter."""
    start, user = time.perf_counter(), lesson.user
    lm = cached_model(user.model)
    made = device.synthetic(lm, user.task, user.records, lesson.prepared, lesson.answers, user.config)
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder, "adapter")
        report = device.learn(lm, user.task, user.records, made, user.config, adapter)
        files = {file.name: file.read_bytes() for file in sorted(adapter.iterdir())}
    seconds = time.perf_counter() - start
    return Learnt(files, made, report.epoch_losses[-1], report.rows, report.truncated_rows, seconds)
