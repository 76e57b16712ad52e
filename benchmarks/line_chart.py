"""Draw curves over a logarithmic axis as an SVG, one panel above the other, without a library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 720, 150, 70, 40, 30, 40
INK, LINE, GRID = "#57606a", "#0969da", "#d0d7de"


@dataclass(frozen=True)
class Curve:
    """A curve with a panel of its own, whose vertical axis starts at 0.

    Attributes:
        name: Heading of the panel.
        values: Value at each x of the common axis.
    """

    name: str
    values: Sequence[float]


def draw_chart(axis: str, xs: Sequence[float], curves: Sequence[Curve]) -> str:
    """Return an SVG of some curves.

    Args:
        axis: Label of the horizontal axis.
        xs: Positions on the horizontal axis, ascending and above 0.
        curves: Curves with a value at each position.
    """
    height = TOP + len(curves) * (PANEL + GAP) + GAP / 2
    panels = "".join(_panel(xs, curve, TOP + i * (PANEL + GAP)) for i, curve in enumerate(curves))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
        f'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{panels}'
        f"{_label(WIDTH / 2, height - 8, axis, 'middle')}</svg>\n"
    )


def _panel(xs: Sequence[float], curve: Curve, top: float) -> str:
    """Return one curve with its name above, its scale at the left and the x values below."""
    highest = _round_up(max(curve.values))
    pixels = [(_x_pixel(x, xs), top + PANEL * (1 - value / highest)) for x, value in zip(xs, curve.values, strict=True)]
    parts = [_label(LEFT, top - 8, curve.name, "start")]
    for share in (0, 0.5, 1):
        y = top + PANEL * (1 - share)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:g}" y2="{y:g}" stroke="{GRID}"/>\n')
        parts.append(_label(LEFT - 8, y + 4, f"{share * highest:g}", "end"))
    parts += [_label(_x_pixel(x, xs), top + PANEL + 16, f"{x:,}", "middle") for x in _ticks(xs)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
    parts.append(f'<polyline points="{points}" fill="none" stroke="{LINE}" stroke-width="2"/>\n')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{LINE}"/>\n' for x, y in pixels]
    return "".join(parts)


def _ticks(xs: Sequence[float]) -> list[float]:
    """Return the first x, the last one, and the powers of ten between them."""
    powers = (10**exponent for exponent in range(math.ceil(math.log10(xs[-1]))))
    return [xs[0], *(power for power in powers if xs[0] < power < xs[-1]), xs[-1]]


def _x_pixel(x: float, xs: Sequence[float]) -> float:
    low, high = math.log10(xs[0]), math.log10(xs[-1])
    return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(x) - low) / (high - low)


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 4, 5 and 8 times a power of ten."""
    unit = 10 ** math.floor(math.log10(value))
    return next(unit * step for step in (1, 2, 4, 5, 8, 10) if unit * step >= value)


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>\n'
