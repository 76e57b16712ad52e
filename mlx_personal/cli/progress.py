"""Progress of long commands on standard error: a bar, a spinner, or a line from time to time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from mlx_personal.cli.terminal import print_notice, printable
from mlx_personal.progress import Progress, ProgressEvent

if TYPE_CHECKING:
    from rich.status import Status

    from mlx_personal.cli.context import CommandContext

# Time between two lines about one stage, where there is no terminal.
_LINE_INTERVAL_S: Final = 10


@contextlib.contextmanager
def progress_bar(cli: CommandContext, label: str | None = None, in_bytes: bool = False) -> Iterator[Progress]:
    """Show a progress bar on a terminal and nothing elsewhere.

    Args:
        cli: The command's context.
        label: Text before the bar; None shows the stage of each event.
        in_bytes: Whether the units of work are bytes.

    Yields:
        The callable that receives the progress events.
    """
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as ProgressBar

    count = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeElapsedColumn())
    with ProgressBar(*columns, console=cli.progress_console, transient=True, disable=not cli.shows_progress) as bar:
        task = bar.add_task(label or "", total=None)

        def on_progress(event: ProgressEvent, /) -> None:
            bar.update(task, completed=event.done, total=event.total, description=label or event.stage)

        yield on_progress


@contextlib.contextmanager
def progress_bar_or_lines(cli: CommandContext) -> Iterator[Progress]:
    """Show a progress bar on a terminal, a line from time to time elsewhere, and nothing with `--json`.

    Args:
        cli: The command's context.

    Yields:
        The callable that receives the progress events.
    """
    if cli.shows_progress or cli.as_json:
        with progress_bar(cli) as on_progress:
            yield on_progress
    else:
        yield ProgressLines()


class ProgressLines:
    """Prints a line on standard error where a stage begins and ends, and from time to time in between."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._printed_at = 0.0

    def __call__(self, event: ProgressEvent, /) -> None:
        """Print the event if it is time for a line."""
        begins, ends = event.stage != self._stage, event.done == event.total
        detail = self.detail(event)
        if begins or ends or detail or time.monotonic() - self._printed_at >= _LINE_INTERVAL_S:
            self._stage, self._printed_at = event.stage, time.monotonic()
            print_notice(f"{progress_text(event)}{detail}")

    def detail(self, event: ProgressEvent) -> str:
        """Return text to add to the line of an event; an event with such text always gets a line."""
        return ""


def progress_text(event: ProgressEvent) -> str:
    """Return `stage done/total`, with the time left where it is known."""
    left = "" if event.remaining_s is None else f", {_duration_text(event.remaining_s)} left"
    return f"{event.stage} {event.done}/{event.total}{left}"


def show_status(cli: CommandContext, text: str) -> Status:
    """Return a context manager that shows a spinner with a text on a terminal."""
    from rich.text import Text

    return cli.progress_console.status(Text(printable(text)))


def bytes_text(count: int) -> str:
    """Return a number of bytes as text, such as `900 MB` or `1.5 GB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _duration_text(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"
