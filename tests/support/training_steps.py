"""Progress of a training as its steps."""

from __future__ import annotations

from collections.abc import Callable

from mlx_personal.finetune import TrainingStep
from mlx_personal.progress import Progress, ProgressEvent


def for_each_step(function: Callable[[TrainingStep], object]) -> Progress:
    """Return a `Progress` that calls a function with each optimizer step."""

    def on_progress(event: ProgressEvent, /) -> None:
        if event.stage == "training":
            assert isinstance(event.detail, TrainingStep)
            function(event.detail)

    return on_progress
