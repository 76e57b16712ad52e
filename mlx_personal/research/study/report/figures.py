"""The study's figures. The paper's numbers stand beside ours in panels of their own, tinted and named as the paper's:
their model, data sizes and scales are others, and one axis would invite to compare levels. Needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mlx_personal.research.study.cell import BASE, PAPER_POLICIES, synthetic_text
from mlx_personal.research.study.report import published, sweep_figures
from mlx_personal.research.study.report.drawing import (
    fonts,
    frame,
    grid,
    legend,
    line,
    on_paper,
    ours_title,
    panels,
    paper_title,
    reference_lines,
    style,
    svg,
    thousands,
)
from mlx_personal.research.study.report.findings import Comparison, Findings
from mlx_personal.research.study.report.grouped_cells import REFERENCE
from mlx_personal.research.study.report.labels import ONE_ANSWER, POLICIES, data_label, policy_label
from mlx_personal.research.study.report.published import published as paper

TITLES: Final = {
    "differences": "Differences to the paper's policy, with 95 % intervals, beside the paper's",
    "curves": "ROUGE-1 along the stream, beside the paper's",
    "own": "This project's policy against the paper's, with 95 % intervals",
    **sweep_figures.TITLES,
}


def draw(found: Findings) -> dict[str, str]:
    """The figures that there are numbers for, as SVG, by their names in `TITLES`."""
    makers: dict[str, Callable[[Findings], Any | None]] = {
        "differences": draw_differences,
        "curves": draw_curves,
        "own": draw_own,
        **sweep_figures.MAKERS,
    }
    drawn = {}
    with fonts():
        for name, make in makers.items():
            if (figure := make(found)) is not None:
                drawn[name] = svg(figure, name)
    return drawn


def draw_curves(found: Findings) -> Any | None:
    """A column a data set: a row of ours for each number of synthetic sets, and the paper's below."""
    if not found.curves:
        return None
    data = list(dict.fromkeys(curve.data for curve in found.curves))
    settings = list(dict.fromkeys(curve.synthetic for curve in found.curves))
    known = [name for name in data if name in published.names()]
    rows = len(settings) + bool(known)
    scores = {row.data: row for c in found.main if c.score == "rouge1" for row in c.rows}
    figure = frame(max(6.0, 0.6 + 2.7 * len(data)), 0.5 + 2.5 * rows)
    blocks = list(figure.subfigures(rows, 1, squeeze=False)[:, 0])
    shown = []
    for block, synthetic in zip(blocks, settings, strict=False):
        block.suptitle(ours_title(found.model, synthetic_text(synthetic)), fontsize=10, fontweight="bold")
        for axes, name in zip(panels(block, len(data)), data, strict=True):
            own = [curve for curve in found.curves if (curve.data, curve.synthetic) == (name, synthetic)]
            for curve in own:
                line(axes, curve.policy, curve.points)
            if row := scores.get(name):
                reference_lines(axes, {POLICIES[BASE]: row.base, ONE_ANSWER: row.one_answer})
            _curve_frame(axes, name, sorted({r for curve in own for r in curve.points}), name == data[0])
            shown.append(axes)
    if known:
        _paper_curves(blocks[-1], data)
    legend(figure, shown)
    return figure


def draw_differences(found: Findings) -> Any | None:
    """Each baseline against the paper's policy; the paper's differences are of its printed and digitised scores."""
    comparisons = [comparison for comparison in found.main if comparison.score == "rouge1"]
    return _forest(found.model, comparisons, with_paper=True)


def draw_own(found: Findings) -> Any | None:
    """This project's policy against the paper's, on the halves that it was not tuned on."""
    return _forest(found.model, [c for c in found.own if c.score == "rouge1"], with_paper=False)


def _paper_curves(block: Any, data: Sequence[str]) -> None:
    block.suptitle(paper_title(), fontsize=10, fontweight="bold")
    first = next(name for name in data if name in published.names())
    for axes, name in zip(panels(block, len(data), sharey=True), data, strict=True):
        if name not in published.names():
            axes.set_visible(False)
            continue
        for policy in PAPER_POLICIES:
            points = published.curve(name, policy)
            colour, marker = style(policy)
            values = [point.value for point in points.values()]
            axes.plot(list(points), values, color=colour, marker=marker, markersize=3.5, linewidth=1, linestyle="--")
        on_paper(axes)
        _curve_frame(axes, name, paper()["curves"]["received"], name == first)


def _curve_frame(axes: Any, data: str, received: Sequence[int], first: bool) -> None:
    """Ticks are at checkpoints: at most four of them, the last among them."""
    every = -(-len(received) // 4)
    axes.set_xticks(list(received)[::-1][:: max(every, 1)])
    thousands(axes.xaxis)
    axes.set_title(data_label(data))
    axes.set_xlabel("dialogue sets received")
    if first:
        axes.set_ylabel("ROUGE-1")
    grid(axes)


def _forest(model: str, comparisons: Sequence[Comparison], with_paper: bool) -> Any | None:
    """Differences to the reference policy as points with intervals, a panel for each number of synthetic sets."""
    comparisons = [comparison for comparison in comparisons if comparison.family]
    if not comparisons:
        return None
    places = _places(comparisons)
    data = list(dict.fromkeys(name for name, _ in places))
    theirs = with_paper and any(name in published.names() for name in data)
    figure = frame(2.2 + 3.3 * (len(comparisons) + theirs), 1.2 + 0.24 * len(places) + 0.12 * len(data))
    shown = panels(figure, len(comparisons) + theirs, sharey=True)
    # One scale for all of ours, so that what synthetic sets change can be seen.
    ends = [end for c in comparisons for row in c.rows for d in row.differences for end in (d.low, d.high, 0.0)]
    margin = 0.05 * (max(ends) - min(ends)) or 0.01
    for axes, comparison in zip(shown, comparisons, strict=False):
        axes.set_xlim(min(ends) - margin, max(ends) + margin)
        title = ours_title(model, synthetic_text(comparison.rows[0].synthetic or 0))
        axes.set_title(title.replace(", ", ",\n", 1))
        for row in comparison.rows:
            for policy, entry in row.entries.items():
                if difference := entry.difference:
                    colour, marker = style(policy)
                    face = colour if difference.verdict in ("higher", "lower") else "white"
                    place = places[row.data, policy]
                    axes.plot([difference.low, difference.high], [place, place], color=colour, linewidth=1.4)
                    axes.plot(difference.value, place, color=colour, marker=marker, markersize=6, markerfacecolor=face)
    if theirs:
        shown[-1].set_title(f"paper ({paper()['source']}),\nno intervals given")
        on_paper(shown[-1])
        for (name, policy), place in places.items():
            reference, value = published.final(name, REFERENCE), published.final(name, policy)
            if reference and value:
                colour, marker = style(policy)
                shown[-1].plot(value.value - reference.value, place, color=colour, marker=marker, markersize=6)
    for axes in shown:
        _forest_frame(axes, places)
    hollow = "no difference, by interval and Holm's correction, or too few seeds"
    figure.supxlabel(f"filled: a difference; hollow: {hollow}", fontsize=8.5)
    return figure


def _places(comparisons: Sequence[Comparison]) -> dict[tuple[str, str], float]:
    """Where each data set's policies lie from the top down, with a gap between data sets."""
    places: dict[tuple[str, str], float] = {}
    rows = {row.data: row for comparison in comparisons for row in comparison.rows}
    columns = dict.fromkeys(name for comparison in comparisons for name in comparison.columns)
    place = 0.0
    for data in rows:
        for policy in columns:
            if policy != comparisons[0].reference:
                places[data, policy] = place
                place += 1
        place += 0.6
    return places


def _forest_frame(axes: Any, places: Mapping[tuple[str, str], float]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.axvline(0, color="black", linewidth=0.9)
    axes.set_yticks(list(places.values()), [f"{data_label(data)}, {policy_label(policy)}" for data, policy in places])
    axes.set_ylim(max(places.values()) + 0.7, -0.7)
    axes.set_xlabel(f"ROUGE-1, difference to {policy_label(REFERENCE)}")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    grid(axes, "x")
