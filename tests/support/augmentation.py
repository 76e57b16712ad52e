"""Users and servers for the tests of augmentation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mlx_personal import jobs
from mlx_personal.augmentation import user_jobs
from mlx_personal.augmentation.config import AugmentConfig
from mlx_personal.augmentation.consent import Consent
from mlx_personal.augmentation.filters import FILTERS, FilterConfig
from mlx_personal.augmentation.prompting import PromptRequest
from mlx_personal.augmentation.server import Server
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.augmentation.user_jobs import User
from mlx_personal.finetune import LoRAConfig

NOUNS = ["soup", "bus", "dog", "rent", "lamp", "song", "coat", "train", "bread", "door"]
TRAINING = LoRAConfig(rank=2, epochs=1, batch_size=4, learning_rate=0.01)
# A model with random weights has no style and finds nothing likely, so only the filters without a model are enabled.
CONFIG = AugmentConfig(
    num_synthetic=4,
    num_demonstrations=2,
    filters=FilterConfig(disabled=frozenset(FILTERS) - {"copy", "balance"}),
    training=TRAINING,
)


class InProcessJobs:
    """A replacement of `jobs.run_jobs` that runs jobs in this process, where a model is loaded once for all tests.

    Attributes:
        done: (function name, job key) of every job that was run.
        fails: Returns the error of a job that shall fail, by its function and the job; None for one that shall not.
    """

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []
        self.fails: Callable[[Callable[[Any], Any], jobs.Job], str | None] = lambda function, job: None

    def __call__(
        self,
        function: Callable[[Any], Any],
        work: Iterable[jobs.Job],
        workers: int | None = None,
        ray_address: str | None = None,
    ) -> Iterator[jobs.JobResult]:
        for job in work:
            self.done.append((function.__name__, job.key))
            error = self.fails(function, job)
            yield jobs.JobResult(job.key, None if error else function(job.argument), error, 1.0)


def requests_for(user: User) -> list[PromptRequest]:
    """Return the requests for a user."""
    return list(user_jobs.prepare(user).requests)


def make_records(name: str, count: int = 5) -> tuple[Record, ...]:
    """Return records that mention the user's name."""
    nouns = [NOUNS[(i + len(name)) % len(NOUNS)] for i in range(count)]
    return tuple(
        Record(f"{name} wants to know about the {noun} number {i}", f"Take the {noun}, {name}.")
        for i, noun in enumerate(nouns)
    )


def make_users(model: Path, *names: str, config: AugmentConfig = CONFIG, count: int = 5) -> list[User]:
    """Return a user of each name, with `count` records, on a base model."""
    return [User(name, Task(), make_records(name, count), str(model), config) for name in names]


def similar_record(prompt: str) -> str:
    """Return a record similar to the first one in a prompt, different for each prompt, as a server would."""
    match = re.search(r"^\{.*\}$", prompt, re.MULTILINE)
    assert match is not None
    first = json.loads(match.group())
    number = sum(map(ord, prompt)) % 9973
    text = f"{first['text']}, but {number} of them on a {NOUNS[number % 10]} in the {NOUNS[number % 7]} please"
    return json.dumps({"text": text, "answer": first["answer"]})


def make_server(url: str, *, temperature: float = 0.8, max_tokens: int = 512) -> Server:
    """Return the settings of a server, with short waits."""
    return Server(
        url, "cloud", temperature=temperature, max_tokens=max_tokens, backoff_s=0.01, max_attempts=2, timeout_s=20.0
    )


def grant_consent(folder: Path, server: Server) -> Path:
    """Record consent for a server in a folder and return the folder."""
    Consent(folder).grant(server.url, server.model)
    return folder
