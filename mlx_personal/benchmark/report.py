"""Turns a folder of results into the README's table and two plots, beside what other projects have published."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from mlx_personal.benchmark.results import read_result
from mlx_personal.benchmark.side import OURS, PLAIN
from mlx_personal.errors import UserError
from mlx_personal.store.files import atomic_write

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


@dataclass(frozen=True)
class Folder:
    """The results in a folder, in the order of their chips, and a line for each file that is none."""

    results: list[dict[str, Any]]
    skipped: list[str]


def read_folder(folder: Path) -> Folder:
    """UserError if there is no result in it at all."""
    if not folder.is_dir():
        raise UserError("no such folder", folder, "name the folder of the results")
    results, skipped = [], []
    for file in sorted(folder.glob("*.json")):
        try:
            results.append(read_result(file))
        except UserError as error:
            skipped.append(error.line())
    if not results:
        hint = skipped[0] if skipped else "mlx-personal benchmark --out FILE.json makes one"
        raise UserError("no benchmark result here", folder, hint)
    results.sort(key=lambda r: (r["machine"]["chip"], r["workload"]["parameters"], r["workload"]["name"], r["date"]))
    return Folder(results, skipped)


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """The table of the results, and that of other projects' figures, marked as theirs."""
    published = json.loads((files("mlx_personal.benchmark") / "published.json").read_text("utf-8"))
    theirs = ([row["source"], row["chip"], row["job"], row["speed"], row["memory"]] for row in published)
    return (
        f"{_table(_COLUMNS, map(_row, results))}\n{_NOTE}\n\n"
        "Published by other projects for their own trainers, each under its own conditions; not measured here:\n\n"
        f"{_table(('source', 'chip', 'job', 'speed', 'memory'), theirs)}"
    )


def write_report(results: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """Writes the tables to `out` and, where matplotlib is installed, the plots beside it; the files written."""
    pictures = {
        out.with_name(f"{out.stem}-{name}.svg"): drawn
        for name, key, title in (
            ("seconds", "seconds_to_loss", "Seconds to the same loss"),
            ("joules", "joules", "Joules, idle power subtracted"),
        )
        if (drawn := draw(results, key, title)) is not None
    }
    shown = "".join(f"\n![{path.stem.rpartition('-')[2]} by chip]({path.name})\n" for path in pictures)
    atomic_write(out, markdown(results) + shown)
    for path, picture in pictures.items():
        atomic_write(path, picture)
    return [out, *pictures]


def can_draw() -> bool:
    """Whether matplotlib is there; it comes with the extra `plots`."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(results: Sequence[dict[str, Any]], key: str, title: str) -> str | None:
    """Bars by chip and workload, mlx-lm above ours, as an SVG; None without matplotlib or any such figure."""
    shown = [r for r in results if any(_median(r, side, key) is not None for side in (OURS, PLAIN))]
    if not shown or not can_draw():
        return None
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(8, 1 + 0.8 * len(shown)))
    axes = figure.subplots()
    for offset, side, colour in ((-0.2, PLAIN, "#8c959f"), (0.2, OURS, "#0969da")):
        places = [n + offset for n, r in enumerate(shown) if _median(r, side, key) is not None]
        spreads = [r["sides"][side][key] for r in shown if _median(r, side, key) is not None]
        middles = [spread["median"] for spread in spreads]
        errors = [
            [spread["median"] - spread["low"] for spread in spreads],
            [spread["high"] - spread["median"] for spread in spreads],
        ]
        axes.barh(places, middles, height=0.35, xerr=errors if places else None, color=colour, label=side)
    axes.set_yticks(range(len(shown)), [_name(r) for r in shown])
    axes.invert_yaxis()
    axes.set_title(title)
    axes.legend()
    stream = io.StringIO()
    # Without a date and random names, the same results give the same file.
    with importlib.import_module("matplotlib").rc_context({"svg.hashsalt": title}):
        figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    return stream.getvalue()


def _row(result: dict[str, Any]) -> list[object]:
    ours, sides = result["sides"][OURS], result["sides"]
    plain = sides.get(PLAIN)
    workload = result["workload"]
    layers = workload["layers"] if workload["lora_layers"] == -1 else workload["lora_layers"]
    throttled = [rnd["throttled"] for side in (OURS, PLAIN) if side in sides for rnd in sides[side]["rounds"]]
    return [
        _chip(result),
        f"{workload['name']}, {workload['rows']:,} rows x {workload['epochs']}",
        f"{layers} of {workload['layers']}",
        _spread(plain and plain["seconds_to_loss"]),
        _spread(ours["seconds_to_loss"]),
        _number(result["time_ratio"]),
        _number(result["memory_ratio"]),
        None if result["max_loss_difference"] is None else f"{result['max_loss_difference']:.1g}",
        _spread(ours["target_tokens_per_second"]),
        _spread(ours["processed_tokens_per_second"]),
        f"{ours['padding_share']:.0%}",
        _spread(ours["rows_per_second"]),
        _number(ours["peak_memory_bytes"]["median"] / 1e9),
        _spread(ours["joules_per_row"]),
        _spread(ours["watts"]),
        None if None in throttled else ("yes" if any(throttled) else "no"),
    ]


def _chip(result: dict[str, Any]) -> str:
    machine = result["machine"]
    memory = "" if machine["memory_bytes"] is None else f", {machine['memory_bytes'] / 2**30:.0f} GB"
    return f"{machine['chip']}{memory}, {machine['device']}"


def _name(result: dict[str, Any]) -> str:
    workload = result["workload"]
    layers = "all" if workload["lora_layers"] == -1 else f"last {workload['lora_layers']}"
    return f"{result['machine']['chip']}\n{workload['name']}, {layers} layers"


def _median(result: dict[str, Any], side: str, key: str) -> float | None:
    spread = result["sides"].get(side, {}).get(key)
    return None if spread is None else spread["median"]


def _spread(spread: dict[str, float] | None) -> str | None:
    if spread is None:
        return None
    low, middle, high = (_number(spread[name]) for name in ("low", "median", "high"))
    return middle if low == high else f"{middle} ({low}-{high})"


def _number(figure: float | None) -> str | None:
    """Three digits, and no power of ten."""
    if figure is None:
        return None
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:#.3g}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    def line(cells: Iterable[object]) -> str:
        texts = ("-" if cell is None else str(cell).replace("|", "/").replace("\n", " ") for cell in cells)
        return f"| {' | '.join(texts)} |\n"

    return line(columns) + "|---" * len(columns) + "|\n" + "".join(map(line, rows))
