"""How long-running functions report progress.

Every function that takes a while has a parameter `on_progress: Progress | None` and calls it with a `ProgressEvent`
whenever a unit of work is done. The caller decides what to show: a bar, a line, or nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class ProgressEvent:
    """How far a stage of the work is.

    Attributes:
        stage: Name of what is being done, such as `scoring` or `training`.
        done: Units of work that are finished.
        total: Units of work in all; None while that is not known.
        remaining_s: Estimated seconds until the stage ends; None while that is not known.
        detail: What has just been finished, where a stage documents it: a `TrainingStep` while training.
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
            BaseException: Whatever it raises ends the work.
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
