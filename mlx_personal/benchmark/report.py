"""Make a Markdown table and two plots of a folder of results, beside the values that other projects have published."""

from __future__ import annotations

import io
import json
import os
import re
import warnings
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from mlx_personal.benchmark.results import read_result
from mlx_personal.benchmark.training_run import MLX_LM, OURS
from mlx_personal.errors import Action, UserError
from mlx_personal.reporting import can_plot, markdown_table
from mlx_personal.storage.files import atomic_write, check_writable

_COLUMNS: Final = (
    "chip",
    "workload",
    "LoRA layers",
    "mlx-lm, s",
    "ours, s",
    "time",
    "memory",
    "largest loss difference",
    "target tokens/s",
    "processed tokens/s",
    "padding",
    "samples/s",
    "peak memory, GB",
    "J per sample",
    "W",
    "throttled",
)
_NOTE: Final = (
    "`time` and `memory` are ours divided by plain mlx-lm's, and seconds are those to the same loss; the other columns "
    "are ours. Values are medians over rounds, with lowest and highest in parentheses; joules are without idle power. "
    "`-`: not measured."
)
# The values that are plotted, by the suffix of the file: the key and the title.
_PLOTS: Final = {
    "seconds": ("seconds_to_loss", "Seconds to the same loss"),
    "joules": ("joules", "Joules, idle power subtracted"),
}


def read_folder(folder: Path, on_skipped: Callable[[str], None]) -> list[dict[str, Any]]:
    """Read the results in a folder, in the order of their chips.

    Args:
        folder: Folder of JSON files.
        on_skipped: Called with one line about each file that is not a result.

    Raises:
        UserError: If the folder has no result.
    """
    if not folder.is_dir():
        raise UserError("no such folder", folder, "name the folder of the results")
    results = []
    for file in sorted(folder.glob("*.json")):
        try:
            results.append(read_result(file))
        except UserError as error:
            on_skipped(error.line())
    if not results:
        raise UserError("no benchmark result here", folder, remedy=Action.RUN_BENCHMARK)
    results.sort(key=lambda r: (r["machine"]["chip"], r["workload"]["parameters"], r["workload"]["name"], r["date"]))
    return results


def all_tables(results: Sequence[dict[str, Any]]) -> str:
    """Return a table of the results, followed by tables of the values that other projects have published."""
    return f"{results_table(results)}\n{published_tables()}"


def results_table(results: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table of the results, with a note about its columns."""
    return f"{markdown_table(_COLUMNS, map(_row, results))}\n{_NOTE}\n"


def published_tables() -> str:
    """Return tables of what other projects have published; training and generation have different units."""
    published = json.loads((files("mlx_personal.benchmark") / "published.json").read_text("utf-8"))
    text = "Published by other projects, each under its own conditions, and not measured here."
    for subject, rows in published.items():
        text += f"\n\n{subject}:\n\n{markdown_table(list(rows[0]), (row.values() for row in rows))}".rstrip("\n")
    return f"{text}\n"


def write_report(results: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """Write the tables and, where matplotlib is installed, the plots beside them.

    Args:
        results: Results of `read_folder`.
        out: File for the tables; the names of the plots start with its name.

    Returns:
        The files that were written.

    Raises:
        UserError: If a file cannot be written.
    """
    check_writable(out)
    text, plots = all_tables(results), {}
    for suffix, (key, title) in _PLOTS.items():
        if (svg := plot_bars(results, key, title)) is not None:
            file = out.with_name(f"{out.stem}-{suffix}.svg")
            plots[file] = svg
            text += f"\n![{suffix} by chip]({quote(os.fsencode(file.name))})\n"
    atomic_write(out, text)
    for file, svg in plots.items():
        atomic_write(file, svg)
    return [out, *plots]


def plot_bars(results: Sequence[dict[str, Any]], key: str, title: str) -> str | None:
    """Return a bar chart by chip and workload as an SVG, with mlx-lm above ours.

    Args:
        results: Results of `read_folder`.
        key: Key of the value that is plotted.
        title: Title of the chart.

    Returns:
        The SVG; None without matplotlib or where no result has this value.
    """
    plotted = [result for result in results if any(_spread(result, trainer, key) for trainer in (OURS, MLX_LM))]
    if not plotted or not can_plot():
        return None
    # Not pyplot, which keeps figures and selects a window system for the whole process.
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.8 * len(plotted)))
    axes = figure.subplots()
    for offset, trainer, color in ((-0.2, MLX_LM, "#8c959f"), (0.2, OURS, "#0969da")):
        bars = [(n + offset, spread) for n, result in enumerate(plotted) if (spread := _spread(result, trainer, key))]
        medians = [spread["median"] for _, spread in bars]
        errors = [
            [spread["median"] - spread["low"] for _, spread in bars],
            [spread["high"] - spread["median"] for _, spread in bars],
        ]
        positions = [position for position, _ in bars]
        axes.barh(positions, medians, height=0.35, xerr=errors if bars else None, color=color, label=trainer)
    # Without math parsing a `$` in a name starts no formula.
    axes.set_yticks(range(len(plotted)), [_label(result) for result in plotted], parse_math=False)
    axes.invert_yaxis()
    axes.set_title(title)
    axes.legend()
    stream = io.StringIO()
    # Without a date and random identifiers, equal results give equal files.
    with matplotlib.rc_context({"svg.hashsalt": title}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that the font lacks, which are drawn as boxes
        figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    return stream.getvalue()


def workload_name(workload: dict[str, Any]) -> str:
    """Return the name of a workload on one line, with the name of its model where that is a different one."""
    name, model = _printable(workload["name"]), _printable(workload["model"])
    return name if name == model else f"{name} ({model})"


def spread_text(spread: dict[str, float] | None, unit: float = 1.0) -> str | None:
    """Return the median in a unit, with lowest and highest in parentheses where they differ.

    Args:
        spread: Median, lowest and highest value; None if not measured.
        unit: What the values are divided by.
    """
    if spread is None:
        return None
    low, median, high = (_format_number(spread[name] / unit) for name in ("low", "median", "high"))
    return median if low == high else f"{median} ({low}-{high})"


def _row(result: dict[str, Any]) -> list[str | None]:
    ours, sides = result["sides"][OURS], result["sides"]
    mlx_lm = sides.get(MLX_LM)
    workload = result["workload"]
    layers = workload["layers"] if workload["lora_layers"] == -1 else workload["lora_layers"]
    throttled = [
        round_["throttled"] for trainer in (OURS, MLX_LM) if trainer in sides for round_ in sides[trainer]["rounds"]
    ]
    return [
        _escaped(_chip(result)),
        f"{_escaped(workload_name(workload))}, {workload['rows']:,} samples x {workload['epochs']}",
        f"{layers} of {workload['layers']}",
        spread_text(mlx_lm and mlx_lm["seconds_to_loss"]),
        spread_text(ours["seconds_to_loss"]),
        _format_number(result["time_ratio"]),
        _format_number(result["memory_ratio"]),
        None if result["max_loss_difference"] is None else f"{result['max_loss_difference']:.1g}",
        spread_text(ours["target_tokens_per_second"]),
        spread_text(ours["processed_tokens_per_second"]),
        f"{ours['padding_share']:.0%}",
        spread_text(ours["rows_per_second"]),
        spread_text(ours["peak_memory_bytes"], 1e9),
        spread_text(ours["joules_per_row"]),
        spread_text(ours["watts"]),
        None if None in throttled else ("yes" if any(throttled) else "no"),
    ]


def _chip(result: dict[str, Any]) -> str:
    machine = result["machine"]
    memory = "" if machine["memory_bytes"] is None else f", {machine['memory_bytes'] / 2**30:.0f} GB"
    return f"{machine['chip']}{memory}, {machine['device']}"


def _label(result: dict[str, Any]) -> str:
    workload = result["workload"]
    layers = "all" if workload["lora_layers"] == -1 else f"last {workload['lora_layers']}"
    return f"{_printable(result['machine']['chip'])}\n{workload_name(workload)}, {layers} layers"


def _spread(result: dict[str, Any], trainer: str, key: str) -> dict[str, float] | None:
    spread: dict[str, float] | None = result["sides"].get(trainer, {}).get(key)
    return spread


def _format_number(value: float | None) -> str | None:
    """Format with three digits, and large numbers without an exponent."""
    if value is None:
        return None
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def _printable(text: str) -> str:
    """Return a name from a file on one line, without characters that cannot be printed."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _escaped(text: str) -> str:
    """Escape a name from a file, so that Markdown shows it unchanged."""
    return re.sub(r"([\\`*_\[\]<>|~$&#])", r"\\\1", _printable(text))
