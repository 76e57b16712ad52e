"""The results of a run: for each user an adapter, the synthetic records it was trained on, and a database row.

The row is written last and deleted just before its adapter is replaced. So an adapter with a row is complete, and a
full disk leaves the earlier result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlx_personal.augmentation.database import RESULTS_TABLE
from mlx_personal.augmentation.task import Record
from mlx_personal.augmentation.user_jobs import TrainedUser, TrainingJob
from mlx_personal.storage.database import Database, utc_now
from mlx_personal.storage.files import atomic_folder, atomic_write, remove_partials

# The key under which version 0.1 stored each field.
_STORED_NAMES: Final = {
    "records": "records",
    "skipped": "skipped",
    "sent": "sent",
    "too_long": "too_long",
    "requested": "asked",
    "outcome_counts": "counts",
    "kept": "kept",
    "loss": "loss",
    "samples": "rows",
    "truncated_samples": "truncated",
    "elapsed_s": "seconds",
}


@dataclass(frozen=True)
class UserResult:
    """How a user's adapter was made.

    Attributes:
        records: The user's records.
        skipped: Number of the user's dialogues that cannot be made into records, by reason.
        sent: Records that the server saw.
        too_long: Records that are longer than the token budget.
        requested: Synthetic records that were requested.
        outcome_counts: Requests by outcome, see `SyntheticRecords`.
        kept: Synthetic records that were trained on.
        loss: Mean loss of the last epoch.
        samples: Samples trained on in each epoch.
        truncated_samples: Samples that were truncated at the start.
        elapsed_s: Seconds of filtering and training.
    """

    records: int
    skipped: dict[str, int]
    sent: int
    too_long: int
    requested: int
    outcome_counts: dict[str, int]
    kept: int
    loss: float
    samples: int
    truncated_samples: int
    elapsed_s: float

    def to_json(self) -> dict[str, Any]:
        """Return all fields under the keys of version 0.1."""
        return {stored: getattr(self, name) for name, stored in _STORED_NAMES.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> UserResult:
        """Return the result that `to_json` returned."""
        return cls(**{name: values[stored] for name, stored in _STORED_NAMES.items()})


class UserResultStore:
    """The results in a run's folder.

    Args:
        database: The folder's database; its owner closes it.
        folder: The run's folder.
    """

    def __init__(self, database: Database, folder: Path):
        self._database, self._folder = database, folder

    def get(self, user: str, key: str, max_unanswered: int) -> UserResult | None:
        """Return a user's stored result.

        Args:
            user: The user's name.
            key: Digest of everything that determines the adapter except the responses.
            max_unanswered: Missing responses that the result may have.

        Returns:
            The result; None if there is none with this key, it misses more responses, or its adapter is gone.
        """
        row = self._database.fetch_one(f"SELECT * FROM {RESULTS_TABLE} WHERE user = ? AND key = ?", user, key)
        if row is None or row["unanswered"] > max_unanswered or not self._adapter_folder(user).exists():
            return None
        return UserResult.from_json(json.loads(row["result"]))

    def add(self, job: TrainingJob, key: str, trained: TrainedUser) -> UserResult:
        """Write a user's adapter and synthetic records, and then the row that makes them valid.

        Args:
            job: The job that trained the adapter.
            key: Digest of everything that determines the adapter except the responses.
            trained: The result of the job.
        """
        user, synthetic = job.user, trained.synthetic
        with atomic_folder(self._adapter_folder(user.name), replace=True) as written:
            for name, content in trained.files.items():
                (written / name).write_bytes(content)
            records_file = self._folder / "synthetic" / f"{user.name}.jsonl"
            atomic_write(records_file, "".join(map(_json_line, synthetic.records)))
            with self._database.transaction() as connection:
                connection.execute(f"DELETE FROM {RESULTS_TABLE} WHERE user = ?", (user.name,))
        result = UserResult(
            records=len(user.records),
            skipped=user.skipped,
            sent=len(job.prepared.sent),
            too_long=job.prepared.too_long,
            requested=len(job.prepared.requests),
            outcome_counts=synthetic.outcome_counts,
            kept=len(synthetic.records),
            loss=trained.loss,
            samples=trained.samples,
            truncated_samples=trained.truncated_samples,
            elapsed_s=trained.elapsed_s,
        )
        unanswered = sum(response is None for response in job.responses)
        row = (user.name, key, unanswered, json.dumps(result.to_json()), utc_now())
        with self._database.transaction() as connection:
            connection.execute(f"INSERT INTO {RESULTS_TABLE} VALUES (?, ?, ?, ?, ?)", row)
        return result

    def remove_partials(self) -> None:
        """Remove the incomplete files of a killed process. Only the process that holds the lock may do this."""
        for name in ("adapters", "synthetic"):
            remove_partials(self._folder / name)

    def _adapter_folder(self, user: str) -> Path:
        return self._folder / "adapters" / user


def _json_line(record: Record) -> str:
    return json.dumps({"text": record.text, "answer": record.answer}, ensure_ascii=False) + "\n"
