"""The progress line of a training run: steps, loss, time left, speed, memory and power."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, cast

from mlx_personal.cli.progress import bytes_text
from mlx_personal.progress import Progress, ProgressEvent

if TYPE_CHECKING:
    from mlx_personal.cli.context import CommandContext
    from mlx_personal.finetune import TrainingStep

# Optimizer steps that loss and speed are averaged over: those of a single step depend on its samples.
_WINDOW: Final = 20
# Width of the bar in characters.
_BAR_WIDTH: Final = 8
_LABEL: Final = "Training"


@contextlib.contextmanager
def training_progress(cli: CommandContext) -> Iterator[Progress]:
    """Show the progress line of a training run on a terminal and nothing elsewhere.

    Args:
        cli: The command's context.

    Yields:
        The callable that receives the events of the stage `training`.
    """
    import mlx.core as mx
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as ProgressBar
    from rich.table import Column

    statistics = StepStatistics()
    columns = (
        TextColumn(_LABEL),
        BarColumn(bar_width=_BAR_WIDTH, table_column=Column(min_width=_BAR_WIDTH)),
        # Not wrapped: a second line would push the first one up with every refresh.
        TextColumn("{task.fields[statistics]}", table_column=Column(no_wrap=True)),
    )
    width = cli.progress_console.width - len(f"{_LABEL} ") - _BAR_WIDTH - 1
    with ProgressBar(*columns, console=cli.progress_console, transient=True, disable=not cli.shows_progress) as bar:
        task = bar.add_task("", total=None, statistics="")

        def on_progress(event: ProgressEvent, /) -> None:
            step = cast("TrainingStep", event.detail)
            statistics.add(step)
            texts = statistics.texts(mx.get_peak_memory())
            while len("  ".join(texts)) > width and len(texts) > 1:
                texts.pop()
            bar.update(task, completed=step.number, total=step.steps, statistics="  ".join(texts))

        yield on_progress


class StepStatistics:
    """The statistics of the last optimizer steps, as the progress line shows them."""

    def __init__(self) -> None:
        self._steps: deque[TrainingStep] = deque(maxlen=_WINDOW)

    def add(self, step: TrainingStep) -> None:
        """Add the latest step."""
        self._steps.append(step)

    def texts(self, peak_memory_bytes: int) -> list[str]:
        """Return the texts of the line, the most important first, without unknown values.

        Args:
            peak_memory_bytes: The most memory that MLX has held so far.
        """
        step = self._steps[-1]
        target_tokens = sum(s.target_tokens for s in self._steps)
        elapsed_s = sum(s.elapsed_s for s in self._steps)
        margins = [s.reward_margin for s in self._steps if s.reward_margin is not None]
        loss = sum(s.loss * s.target_tokens for s in self._steps) / target_tokens
        texts = [
            f"{step.number}/{step.steps}",
            f"loss {loss:.3f}",
            f"margin {sum(margins) / len(margins):.3f}" if margins else "",
            f"{_clock_text(elapsed_s / len(self._steps) * (step.steps - step.number))} left",
            f"{target_tokens / elapsed_s:,.0f} tokens/s" if elapsed_s else "",
            f"{bytes_text(step.memory_bytes)}, peak {bytes_text(peak_memory_bytes)}",
            f"{step.power_watts:.1f} W" if step.power_watts is not None else "",
        ]
        return [text for text in texts if text]


def _clock_text(seconds: float) -> str:
    """Return a duration as `0:09`, `12:34` or `1:23:45`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
