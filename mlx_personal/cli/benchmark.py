"""`benchmark`: how fast this machine fine-tunes, beside plain mlx-lm; and a table of many such results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from mlx_personal.cli.context import Answer, Cli, answers, printable
from mlx_personal.errors import UserError

# Those of the benchmark's room, which loads the model libraries: `--help` does not wait for them.
_WORKLOADS = ("paper", "small", "135m", "1b")
_FIGURES = (
    ("seconds to the same loss", "seconds_to_loss", 1.0),
    ("seconds", "seconds", 1.0),
    ("target tokens/s", "target_tokens_per_second", 1.0),
    ("processed tokens/s", "processed_tokens_per_second", 1.0),
    ("rows/s", "rows_per_second", 1.0),
    ("peak memory, MB", "peak_memory_bytes", 1e6),
    ("joules without idle power", "joules", 1.0),
    ("joules a row", "joules_per_row", 1.0),
    ("watts", "watts", 1.0),
)


class _RunByDefault(click.Group):
    """`benchmark --workload small` is `benchmark run --workload small`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = args and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named else ["run", *args])


@click.group(cls=_RunByDefault)
def benchmark() -> None:
    """Measure how fast this machine fine-tunes; `run` where nothing else is said."""


@benchmark.command()
@click.option("--workload", type=click.Choice(_WORKLOADS), default="small", show_default=True, help="What to train.")
@click.option("--model", metavar="NAME_OR_PATH", help="Train this model in place of the workload's.")
@click.option("--rows", type=click.IntRange(1, 100_000), help="Training rows, in whole batches of 4.")
@click.option("--epochs", type=click.IntRange(1, 1000), help="Times every row is trained on.")
@click.option("--lora-layers", type=click.IntRange(-1), help="Adapt the last so many layers; -1 is all.")
@click.option("--rounds", type=click.IntRange(1, 100), help="Trainings of each side.  [default: 2]")
@click.option("--against", type=click.Choice(["mlx-lm"]), help="Train with plain mlx-lm too, in turn with ours.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep the result in this file, as JSON.")
@click.option("--quick", is_flag=True, help="The embedded model; within a minute, by 16 rows, 2 epochs and one round.")
@answers
def run(
    cli: Cli,
    workload: str,
    model: str | None,
    rows: int | None,
    epochs: int | None,
    lora_layers: int | None,
    rounds: int | None,
    against: str | None,
    out: Path | None,
    quick: bool,
) -> Answer:
    """Train a workload, as often as there are rounds, and report time, memory, energy and loss."""
    from mlx_personal.benchmark import WORKLOADS, workloads
    from mlx_personal.benchmark import benchmark as measure
    from mlx_personal.models.language_model import canonical_name
    from mlx_personal.storage.files import atomic_write, check_writable

    if out is not None:
        check_writable(out)
    if quick and model is not None:
        hint = "leave out --quick, and ask for few rows"
        raise UserError("--quick trains the embedded model and no other", model, hint)
    sizes = {"rows": rows, "epochs": epochs, "lora_layers": lora_layers}
    if quick:
        wanted = workloads.quick(workload, lambda line: click.echo(f"mlx-personal: {line}", err=True), **sizes)
    else:
        named = None if model is None else canonical_name(model)
        wanted = WORKLOADS[workload].changed(model=named, **sizes)
    with cli.bar("Benchmark", by_stage=True) as progress:
        result = measure(wanted, progress, against, rounds, brief=quick)
    if out is not None:
        atomic_write(out, json.dumps(result, indent=1) + "\n")
    return Answer(result, lambda console: _show(console, result, out))


@benchmark.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Keep the tables here, the plots beside.")
@answers
def report(cli: Cli, folder: Path, out: Path | None) -> Answer:
    """Turn a folder of results into a Markdown table and plots."""
    from mlx_personal.benchmark import report as reports
    from mlx_personal.reporting import can_draw

    skipped: list[str] = []

    def skip(line: str) -> None:
        skipped.append(line)
        click.echo(f"mlx-personal: skipped {printable(line)}", err=True)

    results = reports.read_folder(folder, skip)
    text = reports.markdown(results)
    written = [] if out is None else reports.write_report(results, out)
    if out is not None and not can_draw():
        click.echo("mlx-personal: no plots without matplotlib: pip install 'mlx-personal[plots]'", err=True)
    data = {"results": len(results), "skipped": skipped, "markdown": text, "files": [str(p) for p in written]}
    return Answer(data, lambda console: console.print(printable(text), soft_wrap=True), 1 if skipped else 0)


def _show(console: Console, result: dict[str, Any], out: Path | None) -> None:
    from mlx_personal.benchmark.report import spread_text, workload_name

    sides, workload, machine = result["sides"], result["workload"], result["machine"]
    console.print(
        f"{printable(workload_name(workload))}: {workload['rows']} rows x {workload['epochs']} epochs, LoRA on "
        f"{'all' if workload['lora_layers'] == -1 else 'the last ' + str(workload['lora_layers'])} of "
        f"{workload['layers']} layers, {workload['dtype']}, on {printable(machine['chip'])} ({machine['device']})",
        soft_wrap=True,
    )
    table = Table("", *sides)
    for name, key, unit in _FIGURES:
        table.add_row(name, *(spread_text(side[key], unit) or "-" for side in sides.values()))
    table.add_row("padding", *(f"{side['padding_share']:.0%}" for side in sides.values()))
    console.print(table)
    if "mlx-lm" in sides:
        console.print(
            f"ours / mlx-lm: time {result['time_ratio']:.3f}, memory {result['memory_ratio']:.3f}, "
            f"largest difference of the losses {result['max_loss_difference']:.1e}",
            soft_wrap=True,
        )
    energy = result["energy"]
    if energy["missing"]:
        console.print(f"energy: {printable(energy['missing'])}", soft_wrap=True)
    if energy["idle_watts"] and energy["idle_watts"]["total"] is not None:
        console.print(f"idle power, subtracted from the joules: {energy['idle_watts']['total']:.1f} W")
    if out is not None:
        console.print(f"kept in {printable(str(out))}", soft_wrap=True)
