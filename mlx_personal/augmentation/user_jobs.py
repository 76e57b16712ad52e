"""The two jobs of each user, run in worker processes: one prepares the requests, one filters the responses and trains.

A job receives all its inputs in its argument and returns all its results; it leaves no files behind. It can therefore
run on any machine that has this package and can read the model's folder. Worker processes keep their model from job to
job.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_personal.augmentation import on_device
from mlx_personal.augmentation.config import AugmentConfig
from mlx_personal.augmentation.on_device import PreparedRequests, SyntheticRecords
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.models.loading import cached_model


@dataclass(frozen=True)
class User:
    """A user to augment.

    Attributes:
        name: The user's name, also of the adapter's folder.
        task: The task of the records.
        records: The user's records, oldest first.
        model: Folder of the base model.
        config: The settings.
        skipped: Number of the user's dialogues that cannot be made into records, by reason.
    """

    name: str
    task: Task
    records: tuple[Record, ...]
    model: str
    config: AugmentConfig
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class TrainingJob:
    """A user whose adapter is to be trained.

    Attributes:
        user: The user.
        prepared: The requests.
        responses: The response to each request; None for a missing one.
    """

    user: User
    prepared: PreparedRequests
    responses: Sequence[str | None]


@dataclass(frozen=True)
class TrainedUser:
    """A user's adapter and how it was made.

    Attributes:
        files: Contents of the adapter's files, by file name.
        synthetic: The synthetic records that were trained on, and the outcomes of all requests.
        loss: Mean loss of the last epoch.
        samples: Samples trained on in each epoch.
        truncated_samples: Samples that were truncated at the start.
        elapsed_s: Seconds of filtering and training.
    """

    files: dict[str, bytes]
    synthetic: SyntheticRecords
    loss: float
    samples: int
    truncated_samples: int
    elapsed_s: float


def prepare(user: User) -> PreparedRequests:
    """Prepare the requests for a user."""
    return on_device.prepare_requests(cached_model(user.model), user.name, user.task, user.records, user.config)


def train(job: TrainingJob) -> TrainedUser:
    """Filter the responses for a user and train the user's adapter."""
    start, user = time.perf_counter(), job.user
    lm = cached_model(user.model)
    synthetic = on_device.filter_responses(lm, user.task, user.records, job.prepared, job.responses, user.config)
    with tempfile.TemporaryDirectory() as folder:
        adapter_folder = Path(folder, "adapter")
        report = on_device.train_adapter(lm, user.task, user.records, synthetic, user.config, adapter_folder)
        files = {file.name: file.read_bytes() for file in sorted(adapter_folder.iterdir())}
    return TrainedUser(
        files=files,
        synthetic=synthetic,
        loss=report.epoch_losses[-1],
        samples=report.samples,
        truncated_samples=report.truncated_samples,
        elapsed_s=time.perf_counter() - start,
    )
