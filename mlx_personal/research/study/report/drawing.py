"""Shared parts of the figures: colors, frames, legends and reference lines. Needs matplotlib."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

from mlx_personal.research.study.report.labels import policy_label
from mlx_personal.research.study.report.published import CITATION, digitization_error, published_results
from mlx_personal.research.study.report.statistics import IntervalEstimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure, SubFigure

# Colors of the palette of Okabe and Ito, which people with color vision deficiencies can distinguish, and markers that
# can be distinguished in print.
STYLES: Final[Mapping[str, tuple[str, str]]] = {
    "quality": ("#0072B2", "o"),
    "random": ("#E69F00", "s"),
    "fifo": ("#009E73", "^"),
    "k-center": ("#D55E00", "D"),
    "weighted": ("#CC79A7", "P"),
    "eoe": ("#56B4E9", "v"),
    "dss": ("#000000", "<"),
    "idd": ("#8C6D1F", ">"),
}
OTHER_STYLE: Final = ("#666666", "X")
GRAY: Final = "#767676"
# Background of panels with published scores, to set them apart from this study's.
PUBLISHED_BACKGROUND: Final = "#EFEBE2"
_FONT_SIZES: Final = {"font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "legend.fontsize": 9}


def policy_style(policy: str) -> tuple[str, str]:
    """Return the color and the marker of a policy."""
    return STYLES.get(policy, OTHER_STYLE)


@contextmanager
def font_sizes() -> Iterator[None]:
    """Draw with the font sizes of the figures."""
    import matplotlib

    with matplotlib.rc_context(_FONT_SIZES):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of a size in inches. It does not use pyplot, which keeps figures and needs a display backend."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def new_panels(figure: Figure | SubFigure, count: int, sharey: bool = False) -> list[Axes]:
    """Return panels side by side."""
    return list(figure.subplots(1, count, squeeze=False, sharey=sharey)[0])


def style_frame(axes: Axes, axis: Literal["x", "y"] = "y") -> None:
    """Draw a light frame with two sides and grid lines on one axis."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=axis, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def mark_as_published(axes: Axes) -> None:
    """Mark a panel as one with published scores."""
    axes.set_facecolor(PUBLISHED_BACKGROUND)


def published_title() -> str:
    """Return the title of panels with published scores, with what sets them apart."""
    paper = published_results()
    return f"{CITATION} ({paper['source']}): {paper['model']}, digitized to within {digitization_error():g}"


def study_title(model: str, subject: str) -> str:
    """Return the title of a panel with this study's scores; a `$` in the model's name does not start a formula."""
    name = " ".join(model.split()).replace("$", r"\$")
    return f"ours ({name}), {subject}"


def plot_line(
    axes: Axes,
    policy: str,
    points: Mapping[Any, IntervalEstimate],
    label: str | None = None,
    dashed: bool = False,
) -> None:
    """Plot means with a band of their intervals."""
    color, marker = policy_style(policy)
    x = list(points)
    axes.plot(
        x,
        [point.value for point in points.values()],
        color=color,
        marker=marker,
        markersize=4.5,
        linewidth=1.5,
        linestyle="--" if dashed else "-",
        markerfacecolor="white" if dashed else color,
        label=label or policy_label(policy),
    )
    lows, highs = [p.low for p in points.values()], [p.high for p in points.values()]
    axes.fill_between(x, lows, highs, color=color, alpha=0.12, linewidth=0)


def plot_references(axes: Axes, references: Mapping[str, IntervalEstimate | None]) -> None:
    """Plot scores that belong to no policy as horizontal lines.

    A score far outside the plotted range is written as text instead, because a line would compress the others.

    Args:
        axes: The panel, with all other lines.
        references: Scores by label.
    """
    low, high = axes.get_ylim()
    margin, next_y = 0.6 * (high - low), {"below": 0.02, "above": 0.98}
    for (label, score), line_style in zip(references.items(), itertools.cycle((":", "-.")), strict=False):
        if score is None:
            continue
        if low - margin <= score.value <= high + margin:
            axes.axhline(score.value, color=GRAY, linestyle=line_style, linewidth=1.3, zorder=1, label=label)
        else:
            side, alignment, step = ("below", "bottom", 0.08) if score.value < low else ("above", "top", -0.08)
            text = f"{label} {score.value:.4f}, {side} this panel"
            axes.text(
                *(0.98, next_y[side], text), transform=axes.transAxes, ha="right", va=alignment, fontsize=8, color=GRAY
            )
            next_y[side] += step


def add_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Add one legend for all panels below them; labels that occur in several panels are listed once."""
    handles_by_label: dict[str, Any] = {}
    for handles, labels in (axes.get_legend_handles_labels() for axes in panels):
        for label, handle in zip(labels, handles, strict=True):
            handles_by_label.setdefault(label, handle)
    figure.legend(
        list(handles_by_label.values()),
        list(handles_by_label),
        loc="outside lower center",
        ncols=min(len(handles_by_label), 6),
        frameon=False,
    )


def use_thousands_separator(axis: Axis) -> None:
    """Format the ticks of an axis with a thousands separator."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def to_svg(figure: Figure, name: str) -> str:
    """Return a figure as SVG. It contains no date and no random ids, so the same data give the same file."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # characters that the font lacks are drawn as boxes
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
