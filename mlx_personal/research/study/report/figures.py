"""The figures of the report. Needs matplotlib.

Published scores are shown in separate, tinted panels: their model, data sizes and scales differ, and a common axis
would suggest that levels can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from mlx_personal.research.study.cell import BASE, PAPER_POLICIES, describe_synthetic
from mlx_personal.research.study.report import sweep_figures
from mlx_personal.research.study.report.drawing import (
    add_legend,
    font_sizes,
    mark_as_published,
    new_figure,
    new_panels,
    plot_line,
    plot_references,
    policy_style,
    published_title,
    study_title,
    style_frame,
    to_svg,
    use_thousands_separator,
)
from mlx_personal.research.study.report.findings import Comparison, Findings
from mlx_personal.research.study.report.labels import CONSTANT_ANSWER_LABEL, POLICY_LABELS, data_label, policy_label
from mlx_personal.research.study.report.model_study import REFERENCE
from mlx_personal.research.study.report.published import (
    CITATION,
    published_curve,
    published_datasets,
    published_final_score,
    published_results,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Captions by the names of the figures, which are also their file names.
CAPTIONS: Final = {
    "differences": f"Differences from the policy of {CITATION}, with 95 % intervals, beside the published ones",
    "curves": "ROUGE-1 along the stream, beside the published curves",
    "own": f"The policy weighted (ours) against that of {CITATION}, with 95 % intervals",
    **sweep_figures.CAPTIONS,
}


def draw_figures(findings: Findings) -> dict[str, str]:
    """Return the figures for which there are results, as SVG by their names in `CAPTIONS`."""
    functions: dict[str, Callable[[Findings], Figure | None]] = {
        "differences": draw_differences,
        "curves": draw_curves,
        "own": draw_weighted,
        **sweep_figures.FUNCTIONS,
    }
    figures = {}
    with font_sizes():
        for name, function in functions.items():
            if (figure := function(findings)) is not None:
                figures[name] = to_svg(figure, name)
    return figures


def draw_curves(findings: Findings) -> Figure | None:
    """Draw a column per data set: a row of panels per number of synthetic dialogues, and the published curves."""
    if not findings.curves:
        return None
    data = list(dict.fromkeys(curve.data for curve in findings.curves))
    settings = list(dict.fromkeys(curve.synthetic for curve in findings.curves))
    has_published = any(name in published_datasets() for name in data)
    num_rows = len(settings) + has_published
    rows_by_data = {row.data: row for c in findings.main if c.score == "rouge1" for row in c.rows}
    figure = new_figure(max(6.0, 0.6 + 2.7 * len(data)), 0.5 + 2.5 * num_rows)
    blocks = list(figure.subfigures(num_rows, 1, squeeze=False)[:, 0])
    panels = []
    for block, synthetic in zip(blocks, settings, strict=False):
        block.suptitle(study_title(findings.model, describe_synthetic(synthetic)), fontsize=10, fontweight="bold")
        for axes, name in zip(new_panels(block, len(data)), data, strict=True):
            curves = [curve for curve in findings.curves if (curve.data, curve.synthetic) == (name, synthetic)]
            for curve in curves:
                plot_line(axes, curve.policy, curve.points)
            if row := rows_by_data.get(name):
                plot_references(axes, {POLICY_LABELS[BASE]: row.base, CONSTANT_ANSWER_LABEL: row.constant_answer})
            _style_curve_panel(axes, name, sorted({r for curve in curves for r in curve.points}), name == data[0])
            panels.append(axes)
    if has_published:
        _draw_published_curves(blocks[-1], data)
    add_legend(figure, panels)
    return figure


def draw_differences(findings: Findings) -> Figure | None:
    """Draw the differences of the baselines from the reference policy, and those of the published scores."""
    comparisons = [comparison for comparison in findings.main if comparison.score == "rouge1"]
    return _draw_forest(findings.model, comparisons, with_published=True)


def draw_weighted(findings: Findings) -> Figure | None:
    """Draw the differences of the policy `weighted` from the reference policy on the second halves."""
    comparisons = [comparison for comparison in findings.weighted if comparison.score == "rouge1"]
    return _draw_forest(findings.model, comparisons, with_published=False)


def _draw_published_curves(block: SubFigure, data: Sequence[str]) -> None:
    block.suptitle(published_title(), fontsize=10, fontweight="bold")
    first = next(name for name in data if name in published_datasets())
    for axes, name in zip(new_panels(block, len(data), sharey=True), data, strict=True):
        if name not in published_datasets():
            axes.set_visible(False)
            continue
        for policy in PAPER_POLICIES:
            points = published_curve(name, policy)
            color, marker = policy_style(policy)
            values = [point.value for point in points.values()]
            axes.plot(list(points), values, color=color, marker=marker, markersize=3.5, linewidth=1, linestyle="--")
        mark_as_published(axes)
        _style_curve_panel(axes, name, published_results()["curves"]["received"], name == first)


def _style_curve_panel(axes: Axes, data: str, received: Sequence[int], is_first: bool) -> None:
    """Set the ticks to at most four checkpoints, including the last one, and label the axes."""
    interval = -(-len(received) // 4)
    axes.set_xticks(list(received)[::-1][:: max(interval, 1)])
    use_thousands_separator(axes.xaxis)
    axes.set_title(data_label(data))
    axes.set_xlabel("dialogues received")
    if is_first:
        axes.set_ylabel("ROUGE-1")
    style_frame(axes)


def _draw_forest(model: str, comparisons: Sequence[Comparison], with_published: bool) -> Figure | None:
    """Draw differences from the reference policy with intervals, a panel per number of synthetic dialogues."""
    comparisons = [comparison for comparison in comparisons if comparison.family_size]
    if not comparisons:
        return None
    positions = _forest_positions(comparisons)
    data = list(dict.fromkeys(name for name, _ in positions))
    has_published = with_published and any(name in published_datasets() for name in data)
    num_panels = len(comparisons) + has_published
    figure = new_figure(2.2 + 3.3 * num_panels, 1.2 + 0.24 * len(positions) + 0.12 * len(data))
    panels = new_panels(figure, num_panels, sharey=True)
    # All panels of this study have the same scale, so that the effect of synthetic dialogues is visible.
    ends = [end for c in comparisons for row in c.rows for d in row.differences for end in (d.low, d.high, 0.0)]
    margin = 0.05 * (max(ends) - min(ends)) or 0.01
    for axes, comparison in zip(panels, comparisons, strict=False):
        axes.set_xlim(min(ends) - margin, max(ends) + margin)
        title = study_title(model, describe_synthetic(comparison.rows[0].synthetic or 0))
        axes.set_title(title.replace(", ", ",\n", 1))
        _plot_differences(axes, comparison, positions)
    if has_published:
        _plot_published_differences(panels[-1], positions)
    for axes in panels:
        _style_forest_panel(axes, positions)
    hollow = "no difference, by interval and Holm's correction, or too few seeds"
    figure.supxlabel(f"filled: a difference; hollow: {hollow}", fontsize=8.5)
    return figure


def _plot_differences(axes: Axes, comparison: Comparison, positions: Mapping[tuple[str, str], float]) -> None:
    for row in comparison.rows:
        for policy, entry in row.entries.items():
            if difference := entry.difference:
                color, marker = policy_style(policy)
                fill = color if difference.verdict in ("higher", "lower") else "white"
                y = positions[row.data, policy]
                axes.plot([difference.low, difference.high], [y, y], color=color, linewidth=1.4)
                axes.plot(difference.value, y, color=color, marker=marker, markersize=6, markerfacecolor=fill)


def _plot_published_differences(axes: Axes, positions: Mapping[tuple[str, str], float]) -> None:
    axes.set_title(f"{CITATION} ({published_results()['source']}),\nno intervals given")
    mark_as_published(axes)
    for (name, policy), y in positions.items():
        reference, score = published_final_score(name, REFERENCE), published_final_score(name, policy)
        if reference and score:
            color, marker = policy_style(policy)
            axes.plot(score.value - reference.value, y, color=color, marker=marker, markersize=6)


def _forest_positions(comparisons: Sequence[Comparison]) -> dict[tuple[str, str], float]:
    """Return the vertical position of each data set and policy, with a gap between data sets."""
    positions: dict[tuple[str, str], float] = {}
    data = dict.fromkeys(row.data for comparison in comparisons for row in comparison.rows)
    policies = dict.fromkeys(name for comparison in comparisons for name in comparison.columns)
    position = 0.0
    for name in data:
        for policy in policies:
            if policy != comparisons[0].reference:
                positions[name, policy] = position
                position += 1
        position += 0.6
    return positions


def _style_forest_panel(axes: Axes, positions: Mapping[tuple[str, str], float]) -> None:
    from matplotlib.ticker import MaxNLocator

    labels = [f"{data_label(data)}, {policy_label(policy)}" for data, policy in positions]
    axes.axvline(0, color="black", linewidth=0.9)
    axes.set_yticks(list(positions.values()), labels)
    axes.set_ylim(max(positions.values()) + 0.7, -0.7)
    axes.set_xlabel(f"ROUGE-1, difference from {policy_label(REFERENCE)}")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    style_frame(axes, "x")
