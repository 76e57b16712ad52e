"""The figures of a study: gains of answer modes or policies on all data sets. Needs matplotlib."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from mlx_personal.research.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colors of the palette of Okabe and Ito, which people with color vision deficiencies can distinguish, and markers that
# can be distinguished in print.
_STYLES: Final = (
    *(("#56B4E9", "v"), ("#E69F00", "s"), ("#009E73", "^"), ("#0072B2", "o"), ("#767676", "X")),
    *(("#D55E00", "D"), ("#CC79A7", "P")),
)
_ROW_HEIGHT_INCHES: Final = 0.62

Gains = dict[str, dict[str, dict[str, Interval]]]
"""Gains by metric, what is compared, and the name of the data set."""


def draw_gains(gains: Gains, titles: Mapping[str, str], label: str) -> str:
    """Draw gains with their intervals, a panel for each metric.

    Args:
        gains: The gains.
        titles: Title of each metric.
        label: Label of the horizontal axis.

    Returns:
        The figure as SVG.
    """
    from matplotlib.figure import Figure

    compared = list(dict.fromkeys(name for of_metric in gains.values() for name in of_metric))
    names = list(
        dict.fromkeys(name for of_metric in gains.values() for by_name in of_metric.values() for name in by_name)
    )
    height = 1.5 + _ROW_HEIGHT_INCHES * len(names)
    figure = Figure(figsize=(3.4 * len(gains), height), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(gains), squeeze=False, sharey=True)[0]
    for axes, (metric, of_metric) in zip(panels, gains.items(), strict=True):
        _draw_panel(axes, names, compared, of_metric)
        axes.set_title(titles[metric], fontsize=10)
        axes.set_xlabel(label, fontsize=9)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    handles = {text: line for axes in panels for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )
    return _to_svg(figure)


def _draw_panel(
    axes: Axes, names: Sequence[str], compared: Sequence[str], of_metric: Mapping[str, Mapping[str, Interval]]
) -> None:
    """Draw a point with its interval for each of the compared, one below the other within the row of a data set."""
    axes.axvline(0, color="#767676", linewidth=1)
    spread = 0.7 / len(compared)
    for number, label in enumerate(compared):
        color, marker = _STYLES[number % len(_STYLES)]
        present = [name for name in names if name in of_metric.get(label, {})]
        rows = [names.index(name) + spread * (number - (len(compared) - 1) / 2) for name in present]
        gains = [of_metric[label][name] for name in present]
        axes.hlines(rows, [gain.low for gain in gains], [gain.high for gain in gains], color=color)
        values = [gain.value for gain in gains]
        axes.plot(values, rows, linestyle="", marker=marker, color=color, markersize=5, label=label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def _to_svg(figure: Figure) -> str:
    """Return a figure as SVG. It contains no date and no random ids, so the same data give the same file."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "study"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # characters that the font lacks are drawn as boxes
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
