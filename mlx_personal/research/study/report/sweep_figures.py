"""The figures of the sweeps: buffer size, synthetic dialogues, annotation limit and order. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from mlx_personal.research.study.cell import KB_PER_BIN
from mlx_personal.research.study.report.drawing import (
    GRAY,
    add_legend,
    mark_as_published,
    new_figure,
    new_panels,
    plot_line,
    policy_style,
    study_title,
    style_frame,
    use_thousands_separator,
)
from mlx_personal.research.study.report.findings import Findings, SweepLine
from mlx_personal.research.study.report.labels import data_label, policy_label, value_label
from mlx_personal.research.study.report.published import CITATION, published_results, published_synthesis_sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

CAPTIONS: Final = {
    "bins": "ROUGE-1 by the size of the buffer",
    "synthetic": "ROUGE-1 and training time by the number of synthetic dialogues, beside the published ones",
    "annotations": "ROUGE-1 by the number of annotated dialogues",
    "order": "ROUGE-1 by the order of the stream",
}


def draw_bins(findings: Findings) -> Figure | None:
    """Draw ROUGE-1 by bins on a logarithmic axis, with their size in KB on a second one."""
    lines_by_data = _lines_by_data(findings, "bins")
    if not lines_by_data:
        return None
    figure, panels = _new_figure(len(lines_by_data))
    for axes, (data, lines) in zip(panels, lines_by_data.items(), strict=True):
        _plot_lines(axes, lines)
        bins = sorted({value for line in lines for value in line.points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(bins, [f"{value:,}" for value in bins])
        axes.set_xlabel("bins")
        _style_panel(axes, study_title(findings.model, data_label(data)))
        upper = axes.secondary_xaxis("top", functions=(_bins_to_kb, _kb_to_bins))
        upper.set_xticks([value * KB_PER_BIN for value in bins], [f"{value * KB_PER_BIN:,}" for value in bins])
        upper.minorticks_off()
        axes.minorticks_off()
        upper.set_xlabel(f"buffer, KB (at {KB_PER_BIN} KB per bin)")
    add_legend(figure, panels)
    return figure


def draw_synthetic(findings: Findings) -> Figure | None:
    """Draw ROUGE-1 and training time by synthetic dialogues; the published values have their own panel."""
    lines_by_data = _lines_by_data(findings, "synthetic")
    if not lines_by_data:
        return None
    figure, panels = _new_figure(len(lines_by_data) + 1)
    for axes, (data, lines) in zip(panels, lines_by_data.items(), strict=False):
        _plot_lines(axes, lines)
        # One policy's training time is enough, because it depends on the number of samples only.
        seconds = {value: point.seconds_per_epoch for value, point in lines[0].points.items()}
        _plot_training_time(axes, {value: s for value, s in seconds.items() if s is not None})
        _style_panel(axes, study_title(findings.model, data_label(data)))
        available = _available_per_selected(lines)
        axes.set_xticks(range(10), [f"{n}\n{available[n]:.1f}" if n in available else str(n) for n in range(10)])
        axes.set_xlabel("synthetic dialogues per selected one:\nrequested, and below it available")
    _draw_published_synthetic(panels[-1])
    add_legend(figure, panels)
    return figure


def _draw_published_synthetic(axes: Axes) -> None:
    sweep = published_synthesis_sweep()
    color, marker = policy_style("quality")
    x, y = list(sweep.rouge1), list(sweep.rouge1.values())
    axes.plot(x, y, color=color, marker=marker, markersize=4, linestyle="--")
    _plot_training_time(axes, sweep.seconds_per_epoch)
    _style_panel(axes, f"{CITATION} ({published_results()['source']}, digitized), {data_label(sweep.data)}")
    mark_as_published(axes)
    axes.set_xlabel("synthetic dialogues per selected one")
    axes.set_xticks(range(10))


def draw_annotations(findings: Findings) -> Figure | None:
    """Draw ROUGE-1 by annotated dialogues; a policy that replaces more dialogues needs more annotations."""
    lines_by_data = _lines_by_data(findings, "annotations")
    points = [point for lines in lines_by_data.values() for line in lines for point in line.points.values()]
    if not points or any(point.questions is None for point in points):
        return None
    from matplotlib.ticker import LogLocator

    figure, panels = _new_figure(len(lines_by_data))
    for axes, (data, lines) in zip(panels, lines_by_data.items(), strict=True):
        for line in lines:
            scores = {point.questions or 0.0: point.score for point in line.points.values()}
            dashed = line.synthetic == 0 and _has_several_synthetic(lines)
            plot_line(axes, line.policy, dict(sorted(scores.items())), dashed=dashed)
        unlimited = [line.points[None] for line in lines if None in line.points]
        axes.plot(
            [point.questions or 0.0 for point in unlimited],
            [point.score.value for point in unlimited],
            label="no limit",
            marker="o",
            markersize=10,
            markerfacecolor="none",
            color=GRAY,
            linestyle="none",
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.minorticks_off()
        use_thousands_separator(axes.xaxis)
        axes.set_xlabel("dialogues annotated in the whole stream (log)")
        _style_panel(axes, study_title(findings.model, data_label(data)))
    add_legend(figure, panels)
    return figure


def draw_order(findings: Findings) -> Figure | None:
    """Draw ROUGE-1 by the order of the stream, with the policies side by side."""
    lines_by_data = _lines_by_data(findings, "order")
    if not lines_by_data:
        return None
    figure, panels = _new_figure(len(lines_by_data), 4.6)
    for axes, (data, lines) in zip(panels, lines_by_data.items(), strict=True):
        orders = list(dict.fromkeys(value for line in lines for value in line.points))
        for n, line in enumerate(lines):
            shift = 0.6 * ((n + 0.5) / len(lines) - 0.5)
            color, marker = policy_style(line.policy)
            axes.errorbar(
                [orders.index(value) + shift for value in line.points],
                [point.score.value for point in line.points.values()],
                yerr=[
                    [point.score.value - point.score.low for point in line.points.values()],
                    [point.score.high - point.score.value for point in line.points.values()],
                ],
                color=color,
                marker=marker,
                markersize=5,
                linestyle="none",
                label=_line_label(line, lines),
            )
        axes.set_xticks(range(len(orders)), [value_label("order", value).replace(", ", "\n") for value in orders])
        axes.set_xlabel("order of the stream; strength of correlation")
        _style_panel(axes, study_title(findings.model, data_label(data)))
    add_legend(figure, panels)
    return figure


FUNCTIONS: Final[Mapping[str, Callable[[Findings], Figure | None]]] = {
    "bins": draw_bins,
    "synthetic": draw_synthetic,
    "annotations": draw_annotations,
    "order": draw_order,
}


def _bins_to_kb(bins: ArrayLike) -> ArrayLike:
    return np.multiply(bins, KB_PER_BIN)


def _kb_to_bins(kb: ArrayLike) -> ArrayLike:
    return np.divide(kb, KB_PER_BIN)


def _lines_by_data(findings: Findings, name: str) -> dict[str, list[SweepLine]]:
    lines_by_data: dict[str, list[SweepLine]] = {}
    for line in findings.sweeps[name].lines if name in findings.sweeps else ():
        lines_by_data.setdefault(line.data, []).append(line)
    return lines_by_data


def _new_figure(num_panels: int, panel_width: float = 3.8) -> tuple[Figure, list[Axes]]:
    figure = new_figure(max(6.0, 0.6 + panel_width * num_panels), 3.8)
    return figure, new_panels(figure, num_panels)


def _style_panel(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.set_ylabel("ROUGE-1")
    style_frame(axes)


def _plot_lines(axes: Axes, lines: Sequence[SweepLine]) -> None:
    for line in lines:
        points = {value: point.score for value, point in line.points.items()}
        dashed = line.synthetic == 0 and _has_several_synthetic(lines)
        plot_line(axes, line.policy, points, _line_label(line, lines), dashed=dashed)


def _has_several_synthetic(lines: Sequence[SweepLine]) -> bool:
    """Return whether a panel has lines with different numbers of synthetic dialogues."""
    return len({line.synthetic for line in lines}) > 1


def _line_label(line: SweepLine, lines: Sequence[SweepLine]) -> str:
    if not _has_several_synthetic(lines):
        return policy_label(line.policy)
    return f"{policy_label(line.policy)}, {line.synthetic or 'no'} synthetic"


def _available_per_selected(lines: Sequence[SweepLine]) -> dict[int, float]:
    """Return the available synthetic dialogues per selected one by the requested number, the mean over policies."""
    values: dict[int, list[float]] = {}
    for line in lines:
        for requested, point in line.points.items():
            counts = point.synthetic_counts
            values.setdefault(requested, []).append(counts.available_per_selected if counts else 0.0)
    return {requested: sum(available) / len(available) for requested, available in values.items()}


def _plot_training_time(axes: Axes, seconds: Mapping[int, float]) -> None:
    """Plot the training time on an axis of its own that starts at 0."""
    right = axes.twinx()
    label = "training, s per epoch"
    right.plot(list(seconds), list(seconds.values()), color=GRAY, linestyle=":", marker=".", linewidth=1.2)
    right.set_ylim(0, 1.05 * max(seconds.values(), default=1.0))
    right.set_ylabel(label, color=GRAY)
    right.tick_params(axis="y", colors=GRAY)
    right.spines["top"].set_visible(False)
    # An empty line adds the label to the common legend, which only looks at the panels themselves.
    axes.plot([], [], color=GRAY, linestyle=":", marker=".", linewidth=1.2, label=label)
