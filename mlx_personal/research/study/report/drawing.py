"""How the study's figures look: one palette, one frame, panels that say whose numbers they show. Needs matplotlib."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlx_personal.research.study.report.labels import policy_label
from mlx_personal.research.study.report.published import published as paper
from mlx_personal.research.study.report.statistics import Estimate

# Of Okabe and Ito's palette, told apart by anyone's eyes; in print without colours, by their markers.
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
OTHER: Final = ("#666666", "X")
GRAY: Final = "#767676"
# Behind the paper's numbers, so that no eye takes them for ours.
PAPER_BACKGROUND: Final = "#EFEBE2"
_FONT: Final = {"font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "legend.fontsize": 9}


def style(policy: str) -> tuple[str, str]:
    """The colour and the marker of a policy."""
    return STYLES.get(policy, OTHER)


def frame(width: float, height: float) -> Any:
    """A figure of so many inches. Not by pyplot, which keeps figures and chooses a window system."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def grid(axes: Any, axis: str = "y") -> None:
    """A light frame: two sides, and lines to read values by."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=axis, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def on_paper(axes: Any) -> None:
    """Marks a panel as the paper's."""
    axes.set_facecolor(PAPER_BACKGROUND)


def paper_title() -> str:
    """Whose numbers a block of panels shows, and how they differ from ours."""
    theirs = paper()
    return f"paper ({theirs['source']}): {theirs['model']}, digitised to within {theirs['digitised_error']:g}"


def ours_title(model: str, what: str) -> str:
    """Names are as they are: a `$` begins no formula."""
    name = " ".join(model.split()).replace("$", r"\$")
    return f"ours ({name}), {what}"


def line(
    axes: Any, policy: str, points: Mapping[Any, Estimate], label: str | None = None, dashed: bool = False
) -> None:
    """Means with a band of their intervals."""
    colour, marker = style(policy)
    places = list(points)
    values = [point.value for point in points.values()]
    axes.plot(
        places,
        values,
        color=colour,
        marker=marker,
        markersize=4.5,
        linewidth=1.5,
        linestyle="--" if dashed else "-",
        markerfacecolor="white" if dashed else colour,
        label=label or policy_label(policy),
    )
    lows, highs = [p.low for p in points.values()], [p.high for p in points.values()]
    axes.fill_between(places, lows, highs, color=colour, alpha=0.12, linewidth=0)


def reference_lines(axes: Any, references: Mapping[str, Estimate | None]) -> None:
    """What stands beside the policies, by its name: a line, or words where it lies so far off that it would flatten all
    others."""
    low, high = axes.get_ylim()
    margin, off = 0.6 * (high - low), {"below": 0.02, "above": 0.98}
    for (name, score), dashes in zip(references.items(), itertools.cycle((":", "-.")), strict=False):
        if score is None:
            continue
        if low - margin <= score.value <= high + margin:
            axes.axhline(score.value, color=GRAY, linestyle=dashes, linewidth=1.3, zorder=1, label=name)
        else:
            where, edge, step = ("below", "bottom", 0.08) if score.value < low else ("above", "top", -0.08)
            place = {"transform": axes.transAxes, "ha": "right", "va": edge, "fontsize": 8, "color": GRAY}
            axes.text(0.98, off[where], f"{name} {score.value:.4f}, {where} this panel", **place)
            off[where] += step


def legend(figure: Any, axes: Sequence[Any]) -> None:
    """One legend for all panels, under them; what several panels show stands there once."""
    shown: dict[str, Any] = {}
    for handles, labels in (one.get_legend_handles_labels() for one in axes):
        shown |= {label: handle for label, handle in zip(labels, handles, strict=True) if label not in shown}
    figure.legend(
        list(shown.values()), list(shown), loc="outside lower center", ncols=min(len(shown), 6), frameon=False
    )


def panels(figure: Any, count: int, **kwargs: Any) -> list[Any]:
    """Panels side by side."""
    return list(figure.subplots(1, count, squeeze=False, **kwargs)[0])


def thousands(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def svg(figure: Any, name: str) -> str:
    """The figure as SVG; the same numbers give the same file, for it holds no date and no random names."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks, which it draws as boxes
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def fonts() -> Any:
    """The figures' font sizes, to draw under."""
    import matplotlib

    return matplotlib.rc_context(_FONT)
