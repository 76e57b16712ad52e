"""Turns a folder of results into the README's table and two plots, beside what other projects have published."""

from __future__ import annotations

import io
import json
import os
import re
import warnings
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlx_personal.benchmark.results import read_result
from mlx_personal.benchmark.training_run import OURS, PLAIN
from mlx_personal.errors import UserError
from mlx_personal.reporting import can_draw, table
from mlx_personal.storage.files import atomic_write, check_writable

_COLUMNS = (
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
    "rows/s",
    "peak memory, GB",
    "J a row",
    "W",
    "throttled",
)
_NOTE = (
    "`time` and `memory` are ours divided by plain mlx-lm's, seconds those to the same loss; figures without a name "
    "are ours. Medians over rounds, lowest and highest in brackets; joules without idle power. `-`: not measured."
)
# The figures that are drawn, with the title of their picture.
_PICTURES = {
    "seconds": ("seconds_to_loss", "Seconds to the same loss"),
    "joules": ("joules", "Joules, idle power subtracted"),
}


def read_folder(folder: Path, skipped: Callable[[str], None]) -> list[dict[str, Any]]:
    """The results in a folder, in the order of their chips; `skipped` gets a line for each file that is none.

    UserError if there is no result in it at all.
    """
    if not folder.is_dir():
        raise UserError("no such folder", folder, "name the folder of the results")
    results = []
    for file in sorted(folder.glob("*.json")):
        try:
            results.append(read_result(file))
        except UserError as error:
            skipped(error.line())
    if not results:
        raise UserError("no benchmark result here", folder, "mlx-personal benchmark --out FILE.json makes one")
    results.sort(key=lambda r: (r["machine"]["chip"], r["workload"]["parameters"], r["workload"]["name"], r["date"]))
    return results


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """The table of the results, and those of other projects' figures, marked as theirs."""
    return f"{results_table(results)}\n{published_tables()}"


def results_table(results: Sequence[dict[str, Any]]) -> str:
    return f"{table(_COLUMNS, map(_row, results))}\n{_NOTE}\n"


def published_tables() -> str:
    """What other projects say of themselves. Training and generation are measured in other units: a table each."""
    published = json.loads((files("mlx_personal.benchmark") / "published.json").read_text("utf-8"))
    text = "Published by other projects, each under its own conditions; theirs, and not measured here."
    for what, rows in published.items():
        text += f"\n\n{what}:\n\n{table(list(rows[0]), (row.values() for row in rows))}".rstrip("\n")
    return f"{text}\n"


def write_report(results: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """Writes the tables to `out` and, where matplotlib is installed, the plots beside it; the files written."""
    check_writable(out)
    text, pictures = markdown(results), {}
    for name, (key, title) in _PICTURES.items():
        if (drawn := draw(results, key, title)) is not None:
            file = out.with_name(f"{out.stem}-{name}.svg")
            pictures[file] = drawn
            text += f"\n![{name} by chip]({quote(os.fsencode(file.name))})\n"
    atomic_write(out, text)
    for file, drawn in pictures.items():
        atomic_write(file, drawn)
    return [out, *pictures]


def draw(results: Sequence[dict[str, Any]], key: str, title: str) -> str | None:
    """Bars by chip and workload, mlx-lm above ours, as an SVG; None without matplotlib or any such figure."""
    shown = [r for r in results if any(_figure(r, side, key) for side in (OURS, PLAIN))]
    if not shown or not can_draw():
        return None
    # Not pyplot, which keeps figures and chooses a window system for the whole process.
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.8 * len(shown)))
    axes = figure.subplots()
    for offset, side, colour in ((-0.2, PLAIN, "#8c959f"), (0.2, OURS, "#0969da")):
        bars = [(n + offset, spread) for n, r in enumerate(shown) if (spread := _figure(r, side, key))]
        middles = [spread["median"] for _, spread in bars]
        errors = [
            [spread["median"] - spread["low"] for _, spread in bars],
            [spread["high"] - spread["median"] for _, spread in bars],
        ]
        places = [place for place, _ in bars]
        axes.barh(places, middles, height=0.35, xerr=errors if bars else None, color=colour, label=side)
    # As they are: a `$` begins no formula.
    axes.set_yticks(range(len(shown)), [_label(r) for r in shown], parse_math=False)
    axes.invert_yaxis()
    axes.set_title(title)
    axes.legend()
    stream = io.StringIO()
    # Without a date and random names, the same results give the same file.
    with matplotlib.rc_context({"svg.hashsalt": title}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks, which it draws as boxes
        figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    return stream.getvalue()


def workload_name(workload: dict[str, Any]) -> str:
    """What a workload trains, on one line: its name, and that of its model where it has another."""
    name, model = _line(workload["name"]), _line(workload["model"])
    return name if name == model else f"{name} ({model})"


def spread_text(spread: dict[str, float] | None, unit: float = 1.0) -> str | None:
    """The median in a unit, with lowest and highest in brackets where there were several rounds."""
    if spread is None:
        return None
    low, middle, high = (_number(spread[name] / unit) for name in ("low", "median", "high"))
    return middle if low == high else f"{middle} ({low}-{high})"


def _row(result: dict[str, Any]) -> list[str | None]:
    ours, sides = result["sides"][OURS], result["sides"]
    plain = sides.get(PLAIN)
    workload = result["workload"]
    layers = workload["layers"] if workload["lora_layers"] == -1 else workload["lora_layers"]
    throttled = [rnd["throttled"] for side in (OURS, PLAIN) if side in sides for rnd in sides[side]["rounds"]]
    return [
        _escaped(_chip(result)),
        f"{_escaped(workload_name(workload))}, {workload['rows']:,} rows x {workload['epochs']}",
        f"{layers} of {workload['layers']}",
        spread_text(plain and plain["seconds_to_loss"]),
        spread_text(ours["seconds_to_loss"]),
        _number(result["time_ratio"]),
        _number(result["memory_ratio"]),
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
    return f"{_line(result['machine']['chip'])}\n{workload_name(workload)}, {layers} layers"


def _figure(result: dict[str, Any], side: str, key: str) -> dict[str, float] | None:
    spread: dict[str, float] | None = result["sides"].get(side, {}).get(key)
    return spread


def _number(figure: float | None) -> str | None:
    """Three digits, and large ones without a power of ten."""
    if figure is None:
        return None
    return f"{figure:,.0f}" if abs(figure) >= 99.95 else f"{figure:#.3g}"


def _line(text: str) -> str:
    """A name from a file on one line, without what is no character to print."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _escaped(text: str) -> str:
    """A name from a file as Markdown shows it: as it is."""
    return re.sub(r"([\\`*_\[\]<>|~$&#])", r"\\\1", _line(text))
