"""What became of each user, in a run's folder: an adapter, the synthetic records it learnt, and a row that says so.

The row is written last and removed first: where it says that an adapter is there, it is there whole.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from mlx_personal.augmentation.task import Record
from mlx_personal.augmentation.user_jobs import Learnt, Lesson
from mlx_personal.storage.database import Database, now
from mlx_personal.storage.files import atomic_folder, atomic_write, remove_partials


@dataclass(frozen=True)
class Result:
    """How a user's adapter came about.

    Args:
        records: of the user; skipped: those left out before, by reason; sent: those shown to the server; too_long:
            those over the budget of tokens alone.
        asked: synthetic records asked for; counts: how many met which fate, see `device.Synthetic`; kept: were learnt.
        loss: of the last epoch; rows: learnt, truncated: of them those that lost their beginning.
        seconds: of judging and training.
    """

    records: int
    skipped: dict[str, int]
    sent: int
    too_long: int
    asked: int
    counts: dict[str, int]
    kept: int
    loss: float
    rows: int
    truncated: int
    seconds: float


class Results:
    """What is done in `folder`, whose database somebody else opened and closes."""

    def __init__(self, database: Database, folder: Path):
        self._database, self._folder = database, folder

    def found(self, user: str, key: str, unanswered: int) -> Result | None:
        """A user's result, if it is of this key and had no more requests without an answer."""
        row = self._database.row("SELECT * FROM learnt WHERE user = ? AND key = ?", user, key)
        if row is None or row["unanswered"] > unanswered or not self._adapter(user).exists():
            return None
        return Result(**json.loads(row["result"]))

    def add(self, lesson: Lesson, key: str, learnt: Learnt) -> Result:
        """Puts a user's adapter and synthetic records in their places, and only then the row that says so."""
        user, made = lesson.user, learnt.made
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM learnt WHERE user = ?", (user.name,))
        with atomic_folder(self._adapter(user.name), replace=True) as written:
            for name, content in learnt.files.items():
                (written / name).write_bytes(content)
        atomic_write(self._folder / "synthetic" / f"{user.name}.jsonl", "".join(map(_line, made.records)))
        result = Result(
            records=len(user.records),
            skipped=user.skipped,
            sent=len(lesson.prepared.sent),
            too_long=lesson.prepared.too_long,
            asked=len(lesson.prepared.requests),
            counts=made.counts,
            kept=len(made.records),
            loss=learnt.loss,
            rows=learnt.rows,
            truncated=learnt.truncated,
            seconds=learnt.seconds,
        )
        unanswered = sum(answer is None for answer in lesson.answers)
        row = (user.name, key, unanswered, json.dumps(dataclasses.asdict(result)), now())
        with self._database.transaction() as connection:
            connection.execute("INSERT INTO learnt VALUES (?, ?, ?, ?, ?)", row)
        return result

    def remove_partials(self) -> None:
        """Removes what a killed process left half written; only for whoever writes."""
        for files in ("adapters", "synthetic"):
            remove_partials(self._folder / files)

    def _adapter(self, user: str) -> Path:
        return self._folder / "adapters" / user


def _line(record: Record) -> str:
    return json.dumps({"text": record.text, "answer": record.answer}, ensure_ascii=False) + "\n"
