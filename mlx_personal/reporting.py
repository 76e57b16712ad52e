"""What every report is made with: a Markdown table, and whether pictures can be drawn."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; None is a dash. A `|` in a cell must be escaped."""

    def line(cells: Iterable[object]) -> str:
        return f"| {' | '.join('-' if cell is None else str(cell) for cell in cells)} |\n"

    return line(columns) + "|---" * len(columns) + "|\n" + "".join(map(line, rows))


def can_draw() -> bool:
    """Whether matplotlib is there; it comes with the extra `plots`."""
    return importlib.util.find_spec("matplotlib") is not None
