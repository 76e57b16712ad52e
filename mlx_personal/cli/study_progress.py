"""A running study on standard error: a table of data sets and policies that fills, and the time that is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mlx_personal.cli.context import Cli

if TYPE_CHECKING:
    from mlx_personal.research.study import Cell, Progress


# Between two lines about one stage.
_SECONDS: Final = 10


@contextlib.contextmanager
def progress_of_cells(cli: Cli) -> Iterator[Callable[[Progress], None]]:
    """Yields what takes the progress: a table on a terminal, lines elsewhere, nothing with --json."""
    counts: dict[tuple[str, str], tuple[int, int]] = {}

    def count(cell: Cell) -> None:
        done, total = counts.get((cell.data, cell.policy), (0, 0))
        counts[cell.data, cell.policy] = (done + 1, max(total, done + 1))

    if cli.as_json:
        yield lambda progress: None
    elif not cli.progress.is_terminal:
        yield _Lines()
    else:
        with Live(console=cli.progress, transient=True, auto_refresh=False) as live:

            def table(progress: Progress) -> None:
                for cell in progress.planned:
                    done, total = counts.get((cell.data, cell.policy), (0, 0))
                    counts[cell.data, cell.policy] = (done, total + 1)
                if progress.cell is not None:
                    count(progress.cell)
                live.update(Group(progress_table(counts), Text(_head(progress))), refresh=True)

            yield table


class _Lines:
    """A line where a stage begins and ends, for each cell, and now and then in between."""

    def __init__(self) -> None:
        self._stage, self._last = "", 0.0

    def __call__(self, progress: Progress) -> None:
        begins, ends = progress.stage != self._stage, progress.done == progress.total
        if not (begins or ends or progress.cell or time.monotonic() - self._last >= _SECONDS):
            return
        self._stage, self._last = progress.stage, time.monotonic()
        which = ""
        if progress.cell is not None:
            cell = progress.cell
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


def _head(progress: Progress) -> str:
    left = "" if progress.remaining is None else f", {_time(progress.remaining)} left"
    return f"{progress.stage} {progress.done}/{progress.total}{left}"


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"
