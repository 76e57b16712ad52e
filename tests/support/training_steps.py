"""Progress of a training as its steps, and a training that is interrupted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlx_personal import Personalizer
from mlx_personal.finetune import TrainingStep
from mlx_personal.progress import Progress, ProgressEvent


def for_each_step(function: Callable[[TrainingStep], object]) -> Progress:
    """Return a `Progress` that calls a function with each optimizer step."""

    def on_progress(event: ProgressEvent, /) -> None:
        if event.stage == "training":
            assert isinstance(event.detail, TrainingStep)
            function(event.detail)

    return on_progress


def interrupt_training(personalizer: Personalizer) -> None:
    """Begin a training run, and stop it in its second step."""

    class KilledError(BaseException):
        pass

    def kill(step: TrainingStep) -> None:
        if step.number == 2:
            raise KilledError

    with pytest.raises(KilledError):
        personalizer.train(for_each_step(kill))
