"""Users of a collaboration and servers for them: what the tests of `augment` share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_personal import jobs
from mlx_personal.augmentation import user_jobs
from mlx_personal.augmentation.config import AugmentConfig
from mlx_personal.augmentation.consent import Consent
from mlx_personal.augmentation.filters import FILTERS, FilterConfig
from mlx_personal.augmentation.prompting import Request
from mlx_personal.augmentation.server import Server
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.augmentation.user_jobs import User
from mlx_personal.finetune import LoRAConfig

NOUNS = ["soup", "bus", "dog", "rent", "lamp", "song", "coat", "train", "bread", "door"]
TRAINING = LoRAConfig(rank=2, epochs=1, batch_size=4, learning_rate=0.01)
# A random model knows no style, and finds nothing likely.
CONFIG = AugmentConfig(
    k=4, demonstrations=2, filters=FilterConfig(off=frozenset(FILTERS) - {"copy", "balance"}), training=TRAINING
)


class JobsHere:
    """`cluster.run` in this process, where a model is loaded once for all tests; `done` are the jobs' keys by function,
    and `fails` gives a job an error."""

    def __init__(self) -> None:
        self.done = []
        self.fails = lambda function, job: None

    def __call__(self, function: Any, work: Any, workers: Any = None, ray: Any = None) -> Iterator[Any]:
        for job in work:
            self.done.append((function.__name__, job.key))
            error = self.fails(function, job)
            yield jobs.JobResult(job.key, None if error else function(job.argument), error, 1.0)


def requests_for(user: User) -> list[Request]:
    """What the server is asked for a user."""
    return list(user_jobs.prepare(user).requests)


def records_of(name: str, count: int = 5) -> tuple[Record, ...]:
    nouns = [NOUNS[(i + len(name)) % len(NOUNS)] for i in range(count)]
    return tuple(
        Record(f"{name} wants to know about the {noun} number {i}", f"Take the {noun}, {name}.")
        for i, noun in enumerate(nouns)
    )


def users_on(model: Path, *names: str, config: AugmentConfig = CONFIG, count: int = 5) -> list[User]:
    return [User(name, Task(), records_of(name, count), str(model), config) for name in names]


def new_record(prompt: str) -> str:
    """A record like the prompt's first, in words of its own for each prompt."""
    first = json.loads(re.search(r"^\{.*\}$", prompt, re.MULTILINE).group())
    number = sum(map(ord, prompt)) % 9973
    text = f"{first['text']}, but {number} of them on a {NOUNS[number % 10]} in the {NOUNS[number % 7]} please"
    return json.dumps({"text": text, "answer": first["answer"]})


def server_at(url: str, **settings: object) -> Server:
    return Server(url, "cloud", backoff=0.01, tries=2, timeout=20.0, **settings)


def consented(folder: Path, server: Server) -> Path:
    Consent(folder).grant(server.url, server.model)
    return folder
