"""Plot the losses of a training run, and the rewards of its preference pairs: as a PNG, and the losses as text.

The PNG is made with matplotlib. The text plot uses braille characters of 2 x 4 dots and requires no library.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_personal.errors import UserError
from mlx_personal.finetune.report import TrainingReport
from mlx_personal.storage.files import atomic_write

# Okabe and Ito's palette, which people with color blindness can distinguish.
_BLUE, _ORANGE, _GREEN, _PINK, _BLACK, _GRAY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#999999"
# Bits of the dots of a braille character, by row and column.
_DOT_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
# Width in characters of the labels on the left of a text plot.
_MARGIN = 10


@dataclass(frozen=True)
class RewardCurves:
    """Margins or accuracies of the rewards of preference pairs. Steps count from 1.

    Attributes:
        training: (step, mean) of each epoch, at its middle, because these are means over its steps.
        validation: (step, mean) on the validation pairs.
    """

    training: Sequence[tuple[float, float]] = ()
    validation: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Curves:
    """The losses of a training run, and the rewards of its preference pairs. Steps count from 1.

    Attributes:
        losses: Loss of every step; one that is not finite leaves a gap.
        epoch_ends: Last step of each epoch.
        validation: (step, loss) on the validation samples; step 0 is before training.
        general: (step, loss) on the general samples that measure forgetting.
        unit: What a loss is measured in.
        margins: The reward margins; empty without preference pairs.
        accuracies: The shares of pairs with a margin above 0; empty without preference pairs.
    """

    losses: Sequence[float]
    epoch_ends: Sequence[int] = ()
    validation: Sequence[tuple[int, float]] = ()
    general: Sequence[tuple[int, float]] = ()
    unit: str = "nats per target token"
    margins: RewardCurves = RewardCurves()
    accuracies: RewardCurves = RewardCurves()

    @property
    def boundaries(self) -> list[int]:
        """Last steps of all epochs but the last."""
        return [end for end in self.epoch_ends if end < len(self.losses)]


def curves_of(report: TrainingReport) -> Curves:
    """Return the losses and rewards of a report.

    Args:
        report: The report.
    """
    middles = [(first + last + 1) / 2 for first, last in itertools.pairwise([0, *report.epoch_ends])]

    def rewards(name: str) -> RewardCurves:
        training = zip(middles, report.rewards.get(name, ()), strict=False)
        return RewardCurves(tuple(training), report.validation_rewards.get(f"eval_{name}", ()))

    return Curves(
        losses=report.losses,
        epoch_ends=report.epoch_ends,
        validation=report.validation_losses,
        general=report.general_losses,
        unit="with that of preference pairs, in nats" if report.pairs else Curves.unit,
        margins=rewards("rewards/margins"),
        accuracies=rewards("rewards/accuracies"),
    )


def smoothed(losses: Sequence[float]) -> tuple[np.ndarray, int]:
    """Return the moving average of losses.

    The window is narrower at the first steps, where losses decrease fast, and cut off at the last one. Losses that are
    not finite are left out.

    Args:
        losses: Loss of every step.

    Returns:
        The averages, float64 [steps], and the length of the window: odd, about a twentieth of the steps.
    """
    width = max(5, len(losses) // 20) | 1
    values = np.array(losses, np.float64)
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    steps = np.arange(len(values))
    reach = np.minimum(width // 2, steps)
    first, end = steps - reach, np.minimum(steps + reach + 1, len(values))
    with np.errstate(invalid="ignore"):
        return (sums[end] - sums[first]) / (counts[end] - counts[first]), width


def loss_plot_png(path: Path, curves: Curves) -> None:
    """Write a PNG of 1500 x 1050 pixels, or 1500 x 1650 with a second panel for rewards.

    Args:
        path: File to write.
        curves: The losses.

    Raises:
        UserError: If matplotlib is not installed or the disk fails.
    """
    try:
        # Not pyplot, which keeps figures and selects a window system for the whole process.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        hint = "pip install 'mlx-personal[plots]'"
        raise UserError("a plot needs matplotlib, which is not installed", path, hint) from error
    has_rewards = bool(curves.margins.training)
    figure = Figure(figsize=(10, 11 if has_rewards else 7), dpi=150, layout="constrained", facecolor="white")
    panels = figure.subplots(1 + has_rewards, sharex=True, squeeze=False, height_ratios=[7, 4][: 1 + has_rewards])[:, 0]
    _draw_losses(panels[0], curves)
    panels[0].set_ylabel(f"loss ({curves.unit})")
    if has_rewards:
        _draw_rewards(panels[1], curves)
    for panel in panels:
        for number, end in enumerate(curves.boundaries):
            label = None if number or panel is not panels[0] else "end of an epoch"
            panel.axvline(end + 0.5, color=_GRAY, linestyle=":", linewidth=1.2, zorder=0, label=label)
        panel.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        panel.spines["top"].set_visible(False)
    panels[0].spines["right"].set_visible(False)
    panels[-1].set_xlabel("optimizer step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    steps = max(len(curves.losses), 1)
    panels[-1].set_xlim(-0.02 * steps, 1.02 * steps)
    figure.legend(loc="outside lower center", ncols=4 if has_rewards else 3, frameon=False)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    atomic_write(path, png.getvalue())


def _draw_losses(axes: Any, curves: Curves) -> None:
    steps = np.arange(1, len(curves.losses) + 1)
    values = np.where(np.isfinite(curves.losses), curves.losses, np.nan)
    means, width = smoothed(curves.losses)
    # Mark the steps if there are few, because a single step between two gaps has no line.
    marker = "." if len(steps) < 60 else ""
    axes.plot(steps, values, color=_BLUE, alpha=0.35, linewidth=0.8, marker=marker, label="training, each step")
    if len(steps) > width:
        axes.plot(steps, means, color=_BLUE, linewidth=2, label=f"training, mean of {width} steps")
    for points, color, marker, label in (
        (curves.validation, _ORANGE, "o", "validation"),
        (curves.general, _GREEN, "s", "general dialogues (forgetting)"),
    ):
        if points:
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=5, linewidth=1.5, label=label)


def _draw_rewards(axes: Any, curves: Curves) -> None:
    """Draw the margins with the scale on the left, and the accuracies with that on the right."""
    share = axes.twinx()
    for panel, of_kind, color, name in (
        (axes, curves.margins, _PINK, "margin"),
        (share, curves.accuracies, _BLACK, "accuracy"),
    ):
        for points, style, label in (
            (of_kind.training, "-o", f"{name}, epoch"),
            (of_kind.validation, "--^", f"{name}, validation"),
        ):
            if points:
                panel.plot(*zip(*points, strict=True), style, color=color, markersize=6, linewidth=1.5, label=label)
        panel.tick_params(axis="y", colors=color)
    axes.axhline(0, color=_GRAY, linewidth=0.8, zorder=0)
    axes.set_ylabel("reward margin", color=_PINK)
    share.set_ylabel("accuracy: share of margins above 0", color=_BLACK)
    share.set_ylim(-0.05, 1.05)
    share.spines["top"].set_visible(False)


def loss_plot_text(curves: Curves, width: int = 80, height: int = 20) -> str:
    """Return a text plot: dots for the smoothed training loss, `o` for the validation loss, `x` for general samples.

    Args:
        curves: The losses.
        width: Maximum number of characters of a line, at least 40.
        height: Number of lines, at least 8.

    Returns:
        The plot, without colors.
    """
    columns, rows = max(width, 40) - _MARGIN, max(height, 8) - 3
    means, _ = smoothed(curves.losses)
    points = [*enumerate(means.tolist(), 1), *curves.validation, *curves.general]
    finite = [loss for _, loss in points if math.isfinite(loss)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    last = max(len(curves.losses), *(step for step, _ in points), 1)
    first = min([step for step, _ in points], default=1)

    def to_cell(step: float, loss: float, grid_width: int, grid_height: int) -> tuple[int, int]:
        """Return the column and row in a grid of this size."""
        x = (step - first) / max(last - first, 1) * (grid_width - 1)
        return round(x), round((high - loss) / (high - low) * (grid_height - 1))

    cells = [[" "] * columns for _ in range(rows)]
    for end in curves.boundaries:
        for line in cells:
            line[to_cell(end, low, columns, rows)[0]] = "┊"
    for (x, y), dots in _draw_line(means, lambda step, loss: to_cell(step, loss, 2 * columns, 4 * rows)).items():
        cells[y][x] = chr(0x2800 + dots)
    for marker, pairs in (("o", curves.validation), ("x", curves.general)):
        for step, loss in pairs:
            if math.isfinite(loss):
                x, y = to_cell(step, loss, columns, rows)
                cells[y][x] = marker
    labels = {0: high, rows // 2: high - (high - low) * (rows // 2) / (rows - 1), rows - 1: low}
    lines = [
        (f"{labels[i]:{_MARGIN - 2}.3f} ┤" if i in labels else " " * (_MARGIN - 1) + "│") + "".join(line)
        for i, line in enumerate(cells)
    ]
    lines.append(" " * (_MARGIN - 1) + "└" + "─" * columns)
    lines.append(" " * _MARGIN + f"{first}{last:>{columns - len(str(first))}}")
    legend = ["⠤ training"]
    legend += ["o validation"] * bool(curves.validation) + ["x general"] * bool(curves.general)
    legend += ["┊ end of an epoch"] * bool(curves.boundaries)
    lines.append(" " * _MARGIN + "loss by step: " + ", ".join(legend))
    return "\n".join(line.rstrip() for line in lines)


def _draw_line(losses: np.ndarray, to_dot: Callable[[float, float], tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Return the dots of a line through the losses of steps 1, 2, ... as the bits of each character.

    `to_dot` returns the column and row of a dot; dots and characters count from 0.
    """
    cells: dict[tuple[int, int], int] = {}
    previous: tuple[int, int] | None = None
    for step, loss in enumerate(losses.tolist(), 1):
        if not math.isfinite(loss):
            previous = None
            continue
        x, y = to_dot(step, loss)
        from_x, from_y = previous or (x, y)
        length = max(abs(x - from_x), abs(y - from_y), 1)
        for i in range(length + 1):
            dot_x, dot_y = from_x + round((x - from_x) * i / length), from_y + round((y - from_y) * i / length)
            cell = (dot_x // 2, dot_y // 4)
            cells[cell] = cells.get(cell, 0) | _DOT_BITS[dot_y % 4][dot_x % 2]
        previous = (x, y)
    return cells
