"""`benchmark`: measure the fine-tuning speed of this machine, and make a table of many results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.default_command import DefaultCommandGroup
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.progress import progress_bar
from mlx_personal.cli.terminal import print_lines, print_notice
from mlx_personal.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

# Repeats the names of `benchmark.WORKLOADS`, because importing that module would import MLX.
_WORKLOADS: Final = ("paper", "small", "135m", "1b")
# The measurements to show: the name, the key in the result, and the divisor that gives the unit of the name.
_MEASUREMENTS: Final = (
    ("seconds to the same loss", "seconds_to_loss", 1.0),
    ("seconds", "seconds", 1.0),
    ("target tokens/s", "target_tokens_per_second", 1.0),
    ("processed tokens/s", "processed_tokens_per_second", 1.0),
    ("samples/s", "rows_per_second", 1.0),
    ("peak memory, MB", "peak_memory_bytes", 1e6),
    ("joules without idle power", "joules", 1.0),
    ("joules per sample", "joules_per_row", 1.0),
    ("watts", "watts", 1.0),
)


@click.group(cls=DefaultCommandGroup, default_command="run")
def benchmark() -> None:
    """Measure the fine-tuning speed of this machine.

    Without a command, `run` is called.
    """


@benchmark.command()
@click.option("--workload", type=click.Choice(_WORKLOADS), default="small", show_default=True, help="What to train.")
@click.option("--model", metavar="REPO_OR_PATH", help="Train this model instead of the workload's.")
@click.option("--samples", type=click.IntRange(1, 100_000), help="Number of training samples, a multiple of 4.")
@click.option("--epochs", type=click.IntRange(1, 1000), help="Number of epochs.")
@click.option("--num-layers", type=click.IntRange(-1), help="Number of layers to adapt, from the last; -1 for all.")
@click.option("--rounds", type=click.IntRange(1, 100), help="Training runs of each trainer.  [default: 2]")
@click.option("--against", type=click.Choice(["mlx-lm"]), help="Also train with plain mlx-lm, in turn.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the result to this JSON file.")
@click.option(
    "--quick", is_flag=True, help="Finish within a minute: the embedded model, 16 samples, 2 epochs, 1 round."
)
@json_option
def run(
    cli: CommandContext,
    workload: str,
    model: str | None,
    samples: int | None,
    epochs: int | None,
    num_layers: int | None,
    rounds: int | None,
    against: str | None,
    out: Path | None,
    quick: bool,
) -> CommandResult:
    """Train a workload and report time, memory, energy and loss."""
    from mlx_personal.benchmark import WORKLOADS, run_benchmark
    from mlx_personal.benchmark.workloads import quick_workload
    from mlx_personal.models.loading import canonical_name
    from mlx_personal.storage.files import atomic_write, check_writable

    if out is not None:
        check_writable(out)
    if quick and model is not None:
        hint = "leave out --quick, and choose few --samples"
        raise UserError("--quick trains the embedded model and no other", model, hint)
    settings = {"samples": samples, "epochs": epochs, "num_layers": num_layers}
    if quick:
        selected, notices = quick_workload(workload, **settings)
        for notice in notices:
            print_notice(notice)
    else:
        name = None if model is None else canonical_name(model)
        selected = WORKLOADS[workload].with_settings(model=name, **settings)
    with progress_bar(cli) as on_progress:
        result = run_benchmark(selected, on_progress, against, rounds, brief=quick)
    if out is not None:
        atomic_write(out, json.dumps(result, indent=1) + "\n")
    return CommandResult(result, lambda console: _show_result(console, result, out))


@benchmark.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the table to this file, and plots beside it."
)
@json_option
def report(cli: CommandContext, folder: Path, out: Path | None) -> CommandResult:
    """Make a Markdown table and plots of the results in FOLDER."""
    from mlx_personal.benchmark import report as reports
    from mlx_personal.reporting import can_plot

    skipped: list[str] = []

    def skip(line: str) -> None:
        skipped.append(line)
        print_notice(f"skipped {line}")

    results = reports.read_folder(folder, skip)
    text = reports.all_tables(results)
    written = [] if out is None else reports.write_report(results, out)
    if out is not None and not can_plot():
        print_notice("for plots, install matplotlib: pip install 'mlx-personal[plots]'")
    data = {"results": len(results), "skipped": skipped, "markdown": text, "files": [str(path) for path in written]}
    return CommandResult(data, lambda console: print_lines(console, text), exit_code=1 if skipped else 0)


def _show_result(console: Console, result: Mapping[str, Any], out: Path | None) -> None:
    from rich.table import Table

    from mlx_personal.benchmark.report import spread_text, workload_name

    sides, workload, machine = result["sides"], result["workload"], result["machine"]
    adapted = "all" if workload["lora_layers"] == -1 else f"the last {workload['lora_layers']}"
    print_lines(
        console,
        f"{workload_name(workload)}: {workload['rows']} samples x {workload['epochs']} epochs, LoRA on {adapted} of "
        f"{workload['layers']} layers, {workload['dtype']}, on {machine['chip']} ({machine['device']})",
    )
    table = Table("", *sides)
    for name, key, divisor in _MEASUREMENTS:
        table.add_row(name, *(spread_text(side[key], divisor) or "-" for side in sides.values()))
    table.add_row("padding", *(f"{side['padding_share']:.0%}" for side in sides.values()))
    console.print(table)
    if "mlx-lm" in sides:
        print_lines(
            console,
            f"ours / mlx-lm: time {result['time_ratio']:.3f}, memory {result['memory_ratio']:.3f}, "
            f"maximum difference of the losses {result['max_loss_difference']:.1e}",
        )
    energy = result["energy"]
    if energy["missing"]:
        print_lines(console, f"energy: {energy['missing']}")
    if energy["idle_watts"] and energy["idle_watts"]["total"] is not None:
        print_lines(console, f"idle power, subtracted from the joules: {energy['idle_watts']['total']:.1f} W")
    if out is not None:
        print_lines(console, f"The result is in {out}")
