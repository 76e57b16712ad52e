"""Progress events of long-running functions.

Every long-running function has a parameter `on_progress: Progress | None` and calls it with a `ProgressEvent` whenever
a unit of work is done. The caller decides what to show: a bar, a line, or nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class ProgressEvent:
    """The progress of a stage of the work.

    Attributes:
        stage: Name of the stage, such as `scoring` or `training`.
        done: Number of finished units of work.
        total: Number of all units of work; None while it is not known.
        remaining_s: Estimated seconds until the stage ends; None while they are not known.
        detail: What has just been finished, for stages that document it: a `TrainingStep` while training.
    """

    stage: str
    done: int
    total: int | None
    remaining_s: float | None = None
    detail: object = None


class Progress(Protocol):
    """A callable that receives progress events."""

    def __call__(self, event: ProgressEvent, /) -> None:
        """Handle an event.

        Args:
            event: The event.

        Raises:
            BaseException: If the work is to be stopped: the exception propagates to the caller of the function.
        """


def ignore_progress(event: ProgressEvent, /) -> None:
    """Ignore an event.

    Args:
        event: The event.
    """


def as_stage(stage: str, on_progress: Progress | None) -> Progress:
    """Return a `Progress` that forwards every event under another stage name.

    Args:
        stage: Name of the stage.
        on_progress: Receives the events; None drops them.
    """
    if on_progress is None:
        return ignore_progress

    def report(event: ProgressEvent, /) -> None:
        on_progress(dataclasses.replace(event, stage=stage))

    return report
