"""A dozen dialogues to run a small study on, and its jobs run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mlx_personal import Dialogue, jobs
from mlx_personal.research.study.schemas import LabeledDialogue

THINGS = [
    *("kettle", "spaniel", "bicycle", "curtain", "lantern", "orchard"),
    *("tournament", "recipe", "ladder", "violin", "harbor", "blanket"),
]
SAMPLES = [
    LabeledDialogue(
        Dialogue.of(f"What should I do about my {thing} number {i}?", f"Look after the {thing}, slowly."), None
    )
    for i, thing in enumerate(THINGS)
]


class InProcessJobs:
    """A replacement of `jobs.run_jobs` that runs jobs in this process.

    Attributes:
        calls: Name of the function of each job that was run.
        error_of: Returns the error with which a job fails; None where it succeeds.
        duration_of: Returns the seconds that a job takes on `now`.
        now: A clock that only jobs advance.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.error_of: Callable[[jobs.Job], str | None] = lambda job: None
        self.duration_of: Callable[[jobs.Job], float] = lambda job: 0.0
        self.now = 0.0

    def __call__(
        self,
        function: Callable[[Any], Any],
        work: Iterable[jobs.Job],
        workers: int | None = None,
        ray: str | None = None,
    ) -> Iterator[jobs.JobResult]:
        for job in work:
            self.calls.append(function.__name__)
            self.now += self.duration_of(job)
            error = self.error_of(job)
            yield jobs.JobResult(job.key, None if error else function(job.argument), error, 1.0)


def write_stream(path: Path) -> Path:
    """Write the dialogues to a JSON Lines file and return its path."""
    lines = [json.dumps({"messages": sample.dialogue.to_messages()}) for sample in SAMPLES]
    path.write_text("\n".join(lines) + "\n")
    return path
