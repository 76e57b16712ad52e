"""A running study on standard error: a table of data sets and policies that fills, and the time that is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, cast

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mlx_personal.cli.context import Cli
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress

if TYPE_CHECKING:
    from mlx_personal.research.study import Cell


# Between two lines about one stage.
_SECONDS: Final = 10


@contextlib.contextmanager
def progress_of_cells(cli: Cli) -> Iterator[Progress]:
    """Yields what takes the progress: a table on a terminal, lines elsewhere, nothing with --json."""
    counts: dict[tuple[str, str], tuple[int, int]] = {}

    def count(cell: Cell) -> None:
        done, total = counts.get((cell.data, cell.policy), (0, 0))
        counts[cell.data, cell.policy] = (done + 1, max(total, done + 1))

    if cli.as_json:
        yield ignore_progress
    elif not cli.progress.is_terminal:
        yield _Lines()
    else:
        with Live(console=cli.progress, transient=True, auto_refresh=False) as live:

            def table(progress: ProgressEvent) -> None:
                for cell in _planned(progress):
                    done, total = counts.get((cell.data, cell.policy), (0, 0))
                    counts[cell.data, cell.policy] = (done, total + 1)
                if (finished := _finished(progress)) is not None:
                    count(finished)
                live.update(Group(progress_table(counts), Text(_head(progress))), refresh=True)

            yield table


class _Lines:
    """A line where a stage begins and ends, for each cell, and now and then in between."""

    def __init__(self) -> None:
        self._stage, self._last = "", 0.0

    def __call__(self, progress: ProgressEvent) -> None:
        begins, ends = progress.stage != self._stage, progress.done == progress.total
        cell = _finished(progress)
        if not (begins or ends or cell or time.monotonic() - self._last >= _SECONDS):
            return
        self._stage, self._last = progress.stage, time.monotonic()
        which = ""
        if cell is not None:
            which = f": {cell.policy} on {cell.data}, {cell.synthetic} synthetic, seed {cell.seed}"
        click.echo(f"mlx-personal: {_head(progress)}{which}", err=True)


def progress_table(counts: Mapping[tuple[str, str], tuple[int, int]]) -> Table:
    """A row a data set, a column a policy: cells done of those planned, by (data set, policy)."""
    names = list(dict.fromkeys(data for data, _ in counts))
    policies = list(dict.fromkeys(policy for _, policy in counts))
    table = Table("", *policies)
    for name in names:
        of = [counts.get((name, policy)) for policy in policies]
        table.add_row(name, *("" if c is None else str(c[0]) if c[0] == c[1] else f"{c[0]} of {c[1]}" for c in of))
    return table


def _planned(event: ProgressEvent) -> tuple[Cell, ...]:
    """The cells that a run is about to compute, which its first event names."""
    return event.detail if isinstance(event.detail, tuple) else ()


def _finished(event: ProgressEvent) -> Cell | None:
    """The cell that has just been computed."""
    return None if isinstance(event.detail, tuple) else cast("Cell | None", event.detail)


def _head(progress: ProgressEvent) -> str:
    left = "" if progress.remaining_s is None else f", {_time(progress.remaining_s)} left"
    return f"{progress.stage} {progress.done}/{progress.total}{left}"


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"
