"""Helpers of all reports: numbers with their nouns, Markdown tables, and whether plots can be drawn."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Return a number with what it counts, such as `1 pair` or `1,200 pairs`.

    Args:
        count: The number.
        singular: What follows a 1.
        plural: What follows any other number; None for `singular` with an s.
    """
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"


def markdown_table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table.

    Args:
        columns: The column titles.
        rows: The cells of each row; None becomes a dash. A `|` in a cell must already be escaped.
    """

    def line(cells: Iterable[object]) -> str:
        return f"| {' | '.join('-' if cell is None else str(cell) for cell in cells)} |\n"

    return line(columns) + "|---" * len(columns) + "|\n" + "".join(map(line, rows))


def can_plot() -> bool:
    """Return whether matplotlib is installed; it comes with the extra `plots`."""
    return importlib.util.find_spec("matplotlib") is not None
