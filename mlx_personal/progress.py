"""The one way in which long work reports how far it is.

Every function that takes a while has a parameter `on_progress: Progress | None`. It calls it with a `ProgressEvent`
whenever something is done, and the caller decides what to show: a bar, a line, or nothing.
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
        """Take note of an event. What it raises ends the work."""


def ignore_progress(event: ProgressEvent, /) -> None:
    """Do nothing with an event."""


def as_stage(stage: str, on_progress: Progress | None) -> Progress:
    """Return a `Progress` that passes every event on under another stage's name.

    Args:
        stage: Name of the stage, as the caller's caller knows it.
        on_progress: Where the events go; None drops them.

    Returns:
        A callable to hand down to the function that does the work.
    """
    if on_progress is None:
        return ignore_progress

    def report(event: ProgressEvent, /) -> None:
        on_progress(dataclasses.replace(event, stage=stage))

    return report
