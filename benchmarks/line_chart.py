"""Curves over a logarithmic axis as an SVG, one panel above the other: no library needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 720, 150, 70, 40, 30, 40
INK, LINE, GRID = "#57606a", "#0969da", "#d0d7de"


@dataclass(frozen=True)
class Curve:
    """Values at the places of the common axis; the panel begins at 0."""

    name: str
    values: Sequence[float]


def draw(axis: str, places: Sequence[float], curves: Sequence[Curve]) -> str:
    height = TOP + len(curves) * (PANEL + GAP) + GAP / 2
    panels = "".join(panel(places, curve, TOP + i * (PANEL + GAP)) for i, curve in enumerate(curves))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
        f'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{panels}'
        f"{label(WIDTH / 2, height - 8, axis, 'middle')}</svg>\n"
    )


def panel(places: Sequence[float], curve: Curve, top: float) -> str:
    """One curve with its name above, its scale at the left and the places below."""
    highest = round_up(max(curve.values))
    xs = [across(place, places) for place in places]
    ys = [top + PANEL * (1 - value / highest) for value in curve.values]
    parts = [label(LEFT, top - 8, curve.name, "start")]
    for share in (0, 0.5, 1):
        y = top + PANEL * (1 - share)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:g}" y2="{y:g}" stroke="{GRID}"/>\n')
        parts.append(label(LEFT - 8, y + 4, f"{share * highest:g}", "end"))
    parts += [label(across(p, places), top + PANEL + 16, f"{p:,}", "middle") for p in ticks(places)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    parts.append(f'<polyline points="{points}" fill="none" stroke="{LINE}" stroke-width="2"/>\n')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{LINE}"/>\n' for x, y in zip(xs, ys, strict=True)]
    return "".join(parts)


def ticks(places: Sequence[float]) -> list[float]:
    """The first place, the last, and the powers of ten between them."""
    powers = (10**exponent for exponent in range(math.ceil(math.log10(places[-1]))))
    return [places[0], *(power for power in powers if places[0] < power < places[-1]), places[-1]]


def across(place: float, places: Sequence[float]) -> float:
    low, high = math.log10(places[0]), math.log10(places[-1])
    return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(place) - low) / (high - low)


def round_up(value: float) -> float:
    """The next of 1, 2, 4, 5 and 8 times a power of ten."""
    unit = 10 ** math.floor(math.log10(value))
    return next(unit * step for step in (1, 2, 4, 5, 8, 10) if unit * step >= value)


def label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>\n'
