"""The live line of a training on standard error: how far, how well, how fast, and at what cost."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, cast

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as ProgressBar
from rich.table import Column

from mlx_personal.cli.context import Cli
from mlx_personal.progress import Progress, ProgressEvent

if TYPE_CHECKING:
    from mlx_personal.finetune import TrainingStep

# Steps that the figures are taken over: loss and speed of a single one jump with its rows.
_WINDOW: Final = 20
# Characters of the bar.
_BAR: Final = 8


@contextlib.contextmanager
def training_line(cli: Cli) -> Iterator[Progress]:
    """Yields what takes every step. Silent, as `Cli.bar` is, for `--json` and where standard error is no terminal."""
    # Here, so that `--help` does not wait for it.
    import mlx.core as mx

    figures = Figures()
    columns = (
        TextColumn("Training"),
        BarColumn(bar_width=_BAR, table_column=Column(min_width=_BAR)),
        # Never wrapped: a second line would push the first one up with every refresh.
        TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
    )
    room = cli.progress.width - len("Training ") - _BAR - 1
    quiet = cli.as_json or not cli.progress.is_terminal
    with ProgressBar(*columns, console=cli.progress, transient=True, disable=quiet) as bar:
        task = bar.add_task("", total=None, figures="")

        def update(event: ProgressEvent, /) -> None:
            step = cast("TrainingStep", event.detail)
            parts = figures.after(step, mx.get_peak_memory())
            while len("  ".join(parts)) > room and len(parts) > 1:
                parts.pop()
            bar.update(task, completed=step.number, total=step.steps, figures="  ".join(parts))

        yield update


class Figures:
    """The line's figures, the most wanted first: a narrow terminal has no room for the last ones."""

    def __init__(self) -> None:
        self._steps: deque[TrainingStep] = deque(maxlen=_WINDOW)

    def after(self, step: TrainingStep, peak_bytes: int) -> list[str]:
        """Steps, loss a target, time left, target tokens a second, memory now and at most, watts; what is known."""
        self._steps.append(step)
        tokens = sum(s.target_tokens for s in self._steps)
        seconds = sum(s.elapsed_s for s in self._steps)
        loss = sum(s.loss * s.target_tokens for s in self._steps) / tokens
        shown = [
            f"{step.number}/{step.steps}",
            f"loss {loss:.3f}",
            f"{_duration(seconds / len(self._steps) * (step.steps - step.number))} left",
            f"{tokens / seconds:,.0f} tokens/s" if seconds else "",
            f"{bytes_text(step.memory_bytes)}, peak {bytes_text(peak_bytes)}",
            f"{step.power_watts:.1f} W" if step.power_watts is not None else "",
        ]
        return [part for part in shown if part]


def _duration(seconds: float) -> str:
    """`0:09`, `12:34`, `1:23:45`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def bytes_text(count: int) -> str:
    """`900 MB`, `1.5 GB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
