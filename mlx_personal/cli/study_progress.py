"""Progress of a study: a table of data sets and policies on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

from mlx_personal.cli.progress import ProgressLines, progress_text
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress

if TYPE_CHECKING:
    from rich.table import Table

    from mlx_personal.cli.context import CommandContext
    from mlx_personal.research.study import Cell


@contextlib.contextmanager
def study_progress(cli: CommandContext) -> Iterator[Progress]:
    """Show a live table on a terminal, lines elsewhere, and nothing with `--json`.

    Args:
        cli: The command's context.

    Yields:
        The callable that receives the progress events.
    """
    if cli.as_json:
        yield ignore_progress
    elif not cli.shows_progress:
        yield _CellLines()
    else:
        with _live_table(cli) as on_progress:
            yield on_progress


@contextlib.contextmanager
def _live_table(cli: CommandContext) -> Iterator[Progress]:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    # Finished and planned cells by data set and policy.
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    with Live(console=cli.progress_console, transient=True, auto_refresh=False) as live:

        def on_progress(event: ProgressEvent, /) -> None:
            for cell in _planned_cells(event):
                done, total = counts.get((cell.data, cell.policy), (0, 0))
                counts[cell.data, cell.policy] = (done, total + 1)
            if (finished := _finished_cell(event)) is not None:
                done, total = counts.get((finished.data, finished.policy), (0, 0))
                counts[finished.data, finished.policy] = (done + 1, max(total, done + 1))
            live.update(Group(cell_table(counts), Text(progress_text(event))), refresh=True)

        yield on_progress


class _CellLines(ProgressLines):
    """Progress lines in which each finished cell has a line."""

    def detail(self, event: ProgressEvent) -> str:
        cell = _finished_cell(event)
        return "" if cell is None else f": {cell.text()}"


def cell_table(counts: Mapping[tuple[str, str], tuple[int, int]]) -> Table:
    """Return a table with a row for each data set and a column for each policy.

    Args:
        counts: Finished and planned cells by data set and policy.
    """
    from rich.table import Table

    names = list(dict.fromkeys(data for data, _ in counts))
    policies = list(dict.fromkeys(policy for _, policy in counts))
    table = Table("", *policies)
    for name in names:
        table.add_row(name, *(_count_text(counts.get((name, policy))) for policy in policies))
    return table


def _count_text(count: tuple[int, int] | None) -> str:
    if count is None:
        return ""
    done, total = count
    return str(done) if done == total else f"{done} of {total}"


def _planned_cells(event: ProgressEvent) -> tuple[Cell, ...]:
    """Return the cells that a run is about to compute, which are in the detail of its first event."""
    return event.detail if isinstance(event.detail, tuple) else ()


def _finished_cell(event: ProgressEvent) -> Cell | None:
    """Return the cell that has just been computed, if any."""
    return None if isinstance(event.detail, tuple) else cast("Cell | None", event.detail)
