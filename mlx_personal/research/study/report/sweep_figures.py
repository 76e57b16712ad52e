"""The figures of the sweeps: buffer size, number of synthetic sets, annotation budget, order. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mlx_personal.research.study.cell import KB_A_BIN
from mlx_personal.research.study.report.drawing import (
    GRAY,
    frame,
    grid,
    legend,
    line,
    on_paper,
    ours_title,
    panels,
    style,
    thousands,
)
from mlx_personal.research.study.report.findings import Findings, Line
from mlx_personal.research.study.report.labels import data_label, policy_label, value_label
from mlx_personal.research.study.report.published import published as paper

TITLES: Final = {
    "bins": "ROUGE-1 by buffer size",
    "synthetic": "ROUGE-1 and training time by the number of synthetic sets, beside the paper's",
    "annotations": "ROUGE-1 by questions put to the owner",
    "order": "ROUGE-1 by the order of the stream",
}


def draw_bins(found: Findings) -> Any | None:
    """Bins on an axis of powers of two, and what they take in KB above it."""
    by_data = _by_data(found, "bins")
    if not by_data:
        return None
    figure, shown = _frame(len(by_data))
    for axes, (data, lines) in zip(shown, by_data.items(), strict=True):
        _lines(axes, lines)
        places = sorted({value for one in lines for value in one.points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [f"{value:,}" for value in places])
        axes.set_xlabel("bins")
        _frame_panel(axes, ours_title(found.model, data_label(data)))
        above = axes.secondary_xaxis("top", functions=(lambda x: x * KB_A_BIN, lambda x: x / KB_A_BIN))
        above.set_xticks([value * KB_A_BIN for value in places], [f"{value * KB_A_BIN:,}" for value in places])
        above.minorticks_off()
        axes.minorticks_off()
        above.set_xlabel(f"buffer, KB (at {KB_A_BIN} KB a bin)")
    legend(figure, shown)
    return figure


def draw_synthetic(found: Findings) -> Any | None:
    """ROUGE-1 on the left, seconds an epoch on the right; the paper's in a panel of its own."""
    by_data = _by_data(found, "synthetic")
    if not by_data:
        return None
    figure, shown = _frame(len(by_data) + 1)
    for axes, (data, lines) in zip(shown, by_data.items(), strict=False):
        _lines(axes, lines)
        # One policy's time stands for all: it depends on how much is trained on, not on what.
        seconds = {value: point.seconds_an_epoch for value, point in lines[0].points.items()}
        _seconds(axes, {value: s for value, s in seconds.items() if s is not None})
        _frame_panel(axes, ours_title(found.model, data_label(data)))
        got = _got_each(lines)
        axes.set_xticks(range(10), [f"{n}\n{got[n]:.1f}" if n in got else str(n) for n in range(10)])
        axes.set_xlabel("synthetic sets for each kept one:\nasked for, and below it what was got")
    theirs, axes = paper()["synthetic"], shown[-1]
    colour, marker = style("quality")
    axes.plot(theirs["sets"], theirs["rouge1"]["digitised"], color=colour, marker=marker, markersize=4, linestyle="--")
    _seconds(axes, dict(zip(theirs["sets"], theirs["seconds_an_epoch"]["digitised"], strict=True)))
    _frame_panel(axes, f"paper ({paper()['source']}, digitised), {data_label(theirs['data'])}")
    on_paper(axes)
    axes.set_xlabel("synthetic sets for each kept one")
    axes.set_xticks(range(10))
    legend(figure, shown)
    return figure


def draw_annotations(found: Findings) -> Any | None:
    """By the questions that were asked; a policy that replaces more asks more."""
    by_data = _by_data(found, "annotations")
    if not by_data or any(
        point.questions is None for lines in by_data.values() for x in lines for point in x.points.values()
    ):
        return None
    from matplotlib.ticker import LogLocator

    figure, shown = _frame(len(by_data))
    for axes, (data, lines) in zip(shown, by_data.items(), strict=True):
        for one in lines:
            points = {point.questions: point.score for point in one.points.values()}
            line(axes, one.policy, dict(sorted(points.items())), dashed=one.synthetic == 0 and _both(lines))
        free = [one.points[None] for one in lines if None in one.points]
        ring = {"marker": "o", "markersize": 10, "markerfacecolor": "none", "color": GRAY, "linestyle": "none"}
        axes.plot([p.questions for p in free], [p.score.value for p in free], label="no limit", **ring)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.minorticks_off()
        thousands(axes.xaxis)
        axes.set_xlabel("questions asked in the whole stream (log)")
        _frame_panel(axes, ours_title(found.model, data_label(data)))
    legend(figure, shown)
    return figure


def draw_order(found: Findings) -> Any | None:
    """Orders side by side, policies a little apart in each, with their intervals."""
    by_data = _by_data(found, "order")
    if not by_data:
        return None
    figure, shown = _frame(len(by_data), 4.6)
    for axes, (data, lines) in zip(shown, by_data.items(), strict=True):
        values = list(dict.fromkeys(value for one in lines for value in one.points))
        for n, one in enumerate(lines):
            shift = 0.6 * ((n + 0.5) / len(lines) - 0.5)
            colour, marker = style(one.policy)
            axes.errorbar(
                [values.index(value) + shift for value in one.points],
                [point.score.value for point in one.points.values()],
                yerr=[
                    [point.score.value - point.score.low for point in one.points.values()],
                    [point.score.high - point.score.value for point in one.points.values()],
                ],
                color=colour,
                marker=marker,
                markersize=5,
                linestyle="none",
                label=_label(one, lines),
            )
        axes.set_xticks(range(len(values)), [value_label("order", value).replace(", ", "\n") for value in values])
        axes.set_xlabel("order of the stream; strength of correlation")
        _frame_panel(axes, ours_title(found.model, data_label(data)))
    legend(figure, shown)
    return figure


MAKERS: Final[Mapping[str, Callable[[Findings], Any | None]]] = {
    "bins": draw_bins,
    "synthetic": draw_synthetic,
    "annotations": draw_annotations,
    "order": draw_order,
}


def _by_data(found: Findings, name: str) -> dict[str, list[Line]]:
    by_data: dict[str, list[Line]] = {}
    for one in found.sweeps[name].lines if name in found.sweeps else ():
        by_data.setdefault(one.data, []).append(one)
    return by_data


def _frame(count: int, width: float = 3.8) -> tuple[Any, list[Any]]:
    figure = frame(max(6.0, 0.6 + width * count), 3.8)
    return figure, panels(figure, count)


def _frame_panel(axes: Any, title: str) -> None:
    axes.set_title(title)
    axes.set_ylabel("ROUGE-1")
    grid(axes)


def _lines(axes: Any, lines: Sequence[Line]) -> None:
    for one in lines:
        points = {value: point.score for value, point in one.points.items()}
        line(axes, one.policy, points, _label(one, lines), dashed=one.synthetic == 0 and _both(lines))


def _both(lines: Sequence[Line]) -> bool:
    """Whether a panel shows lines with synthetic sets and without."""
    return len({one.synthetic for one in lines}) > 1


def _label(one: Line, lines: Sequence[Line]) -> str:
    if not _both(lines):
        return policy_label(one.policy)
    return f"{policy_label(one.policy)}, {one.synthetic or 'no'} synthetic"


def _got_each(lines: Sequence[Line]) -> dict[int, float]:
    """Synthetic sets for each kept one that were learnt, by how many were asked for; the mean of several policies."""
    found: dict[int, list[float]] = {}
    for one in lines:
        for value, point in one.points.items():
            found.setdefault(value, []).append(point.sets.got_each if point.sets else 0.0)
    return {value: sum(each) / len(each) for value, each in found.items()}


def _seconds(axes: Any, seconds: Mapping[int, float]) -> None:
    """Training time on an axis of its own, from 0, so that its growth can be seen."""
    right = axes.twinx()
    label = "training, s an epoch"
    right.plot(list(seconds), list(seconds.values()), color=GRAY, linestyle=":", marker=".", linewidth=1.2)
    right.set_ylim(0, 1.05 * max(seconds.values(), default=1.0))
    right.set_ylabel(label, color=GRAY)
    right.tick_params(axis="y", colors=GRAY)
    right.spines["top"].set_visible(False)
    # In the shared legend, which looks at the panels themselves.
    axes.plot([], [], color=GRAY, linestyle=":", marker=".", linewidth=1.2, label=label)
