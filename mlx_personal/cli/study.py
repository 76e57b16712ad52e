"""`study`: run the data selection experiments of Qin et al., 2024, show their state, and report the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mlx_personal.cli.context import MAC_MODEL, CommandContext
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.remedies import ProfileOptions
from mlx_personal.cli.study_progress import cell_table, study_progress
from mlx_personal.cli.terminal import counts_text, print_lines

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.research.study import Cell, StudyResult

# Repeats names of `research.study`, because importing that package would import MLX.
_EXPERIMENTS: Final = ("main", "ablation", "own", "tuning", "base", "scripts")
_SWEEPS: Final = ("synthesis", "buffer", "entropy", "annotations", "order")
_DATA: Final = ("alpaca", "dolly", "prosocial", "empathetic", "openorca", "meddialog")
_ORDERS: Final = ("in-order", "shuffled", "correlated")
_PATH: Final = click.Path(path_type=Path)


@click.group()
def study() -> None:
    """Reproduce the data selection experiments of Qin et al., 2024."""


@study.command()
@click.argument("folder", type=_PATH)
@click.option("--model", default=MAC_MODEL, show_default=True, metavar="REPO_OR_PATH", help="Base model.")
@click.option(
    "--data",
    multiple=True,
    metavar="NAME[=FILE]",
    help=f"Data set, from the Hugging Face hub or from a file: {', '.join(_DATA)}.  [default: all six]",
)
@click.option(
    "--experiment",
    "experiments",
    type=click.Choice(_EXPERIMENTS + _SWEEPS),
    multiple=True,
    default=("main", "ablation"),
    show_default=True,
    help="Experiment; can be given more than once.",
)
@click.option(
    "--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Number of random seeds of each setting."
)
@click.option(
    "--order",
    type=click.Choice(_ORDERS),
    help="Order of the stream; the experiment `order` runs all of them.  [default: correlated]",
)
@click.option(
    "--strength",
    type=click.FloatRange(0, 1),
    help="Strength of `--order correlated`; the experiment `order` runs several.  [default: 0.9]",
)
@click.option(
    "--received",
    type=click.IntRange(1),
    help="Dialogues in the stream; `own` and `tuning` use half of them.  [default: 4600]",
)
@click.option(
    "--every",
    type=click.IntRange(1),
    help="Dialogues between two training runs; `own` and `tuning` train once.  [default: 800]",
)
@click.option(
    "--evaluation", type=click.IntRange(1), help="Evaluation dialogues after each training run.  [default: 200]"
)
@click.option("--answer-tokens", type=click.IntRange(1), help="Maximum tokens of an answer.  [default: 128]")
@click.option(
    "--bins",
    type=click.IntRange(1),
    help="Bins of the buffer; the experiment `buffer` runs 32 to 512.  [default: 128]",
)
@click.option(
    "--synthetic",
    type=click.IntRange(0, 9),
    default=3,
    show_default=True,
    help="Synthetic dialogues per selected one, in `main`, `ablation`, `own` and `scripts`, which run with and without "
    "them; `synthesis` runs 0 to 9, the other experiments none.",
)
@click.option(
    "--writer", type=_PATH, metavar="FOLDER", help="Folder of an adapter that writes the synthetic dialogues."
)
@click.option("--general", type=_PATH, metavar="FILE", help="General dialogues (JSON Lines) to measure forgetting on.")
@click.option("--epochs", type=click.IntRange(1), help="Epochs of each training run.  [default: 3]")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Learning rate.  [default: 3e-4]")
@click.option("--max-seq-length", type=click.IntRange(2), help="Maximum tokens of a training sample.  [default: 1024]")
@click.option("--workers", type=click.IntRange(1), help="Worker processes.  [default: one per core]")
@click.option("--ray", metavar="ADDRESS", help="Run on this Ray cluster (extra `cluster`).")
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    metavar="MINUTES",
    help="Run only as many cells as fit into this time, and list the others.",
)
@json_option
def run(
    cli: CommandContext,
    folder: Path,
    model: str,
    data: tuple[str, ...],
    experiments: tuple[str, ...],
    seeds: int,
    synthetic: int,
    writer: Path | None,
    general: Path | None,
    epochs: int | None,
    learning_rate: float | None,
    max_seq_length: int | None,
    workers: int | None,
    ray: str | None,
    budget: float | None,
    **cell_settings: Any,
) -> CommandResult:
    """Run the cells of the experiments that are missing in FOLDER.

    A cell is one run: a policy along one stream of dialogues, with one seed. The same command resumes an interrupted
    study. The default sizes are the paper's: 4,600 dialogues, a training run after every 800, 128 bins.
    """
    from mlx_personal.research.study import StudySpec, run_study

    if cell_settings["strength"] is not None and cell_settings["order"] not in (None, "correlated"):
        raise click.UsageError(f"--strength needs `--order correlated`; the order here is {cell_settings['order']}")
    training = {"epochs": epochs, "learning_rate": learning_rate, "max_seq_length": max_seq_length}
    spec = StudySpec(
        model=model,
        data=_parse_data(data or _DATA),
        experiments=experiments,
        num_seeds=seeds,
        synthetic=synthetic,
        writer=writer,
        general=general,
        cell_settings={name: value for name, value in cell_settings.items() if value is not None},
        training_settings={name: value for name, value in training.items() if value is not None},
    )
    time_limit_s = None if budget is None else 60 * budget
    with study_progress(cli) as on_progress:
        result = run_study(folder, spec, workers, ray, time_limit_s, on_progress)
    json_data = {
        "found": result.num_stored,
        "ran": result.num_computed,
        "failed": [{"cell": cell.to_json(), "error": error} for cell, error in result.failed],
        "left_out": [block.name for block in result.skipped],
    }
    return CommandResult(
        json_data, lambda console: _show_result(console, result, folder), exit_code=1 if result.failed else 0
    )


@study.command()
@click.argument("folder", type=_PATH)
@json_option
def status(cli: CommandContext, folder: Path) -> CommandResult:
    """Show which cells of the study in FOLDER are finished."""
    from mlx_personal.research.study import StudyDatabase

    with StudyDatabase(folder) as database:
        cells = [cell for cell, _ in database.finished_cells()]
        outdated = database.count_cells() - len(cells)
        reasons = database.count_synthesis_reasons()
    policies = _count_by_data(cells, lambda cell: cell.policy)
    sources = _count_by_data(cells, lambda cell: cell.source)
    models = _count_by_data(cells, lambda cell: f"{cell.model_name} {cell.model[:8]}")

    def show(console: Console) -> None:
        if cells:
            counts = {(data, policy): (n, n) for data, by_policy in policies.items() for policy, n in by_policy.items()}
            console.print(cell_table(counts))
        for what, by_data in (("sources", sources), ("models", models)):
            for data, by_name in by_data.items():
                if len(by_name) > 1:
                    print_lines(
                        console,
                        f"{data} has {len(by_name)} {what}, which are not compared with each other: "
                        f"{counts_text(by_name)}",
                    )
        print_lines(console, f"{len(cells)} cells; synthetic dialogues: {counts_text(reasons, 'none generated')}")
        if not cells:
            command = ProfileOptions().command("study", "run", str(folder))
            print_lines(console, f"No cell has finished; run the study with {command}")
        if outdated:
            print_lines(console, _outdated_text(outdated))

    data = {"cells": len(cells), "by_policy": policies, "by_source": sources, "by_model": models}
    return CommandResult({**data, "outdated": outdated, "synthetic": reasons}, show)


@study.command()
@click.argument("folder", type=_PATH)
@click.option(
    "--out",
    type=_PATH,
    required=True,
    metavar="FOLDER",
    help="Output folder of report.md, report.json and the figures.",
)
@json_option
def report(cli: CommandContext, folder: Path, out: Path) -> CommandResult:
    """Make tables and figures of the study in FOLDER, with the paper's numbers beside them."""
    from mlx_personal.research.study import StudyDatabase
    from mlx_personal.research.study.report import summarize, write_report

    with StudyDatabase(folder) as database:
        cells = database.finished_cells()
        outdated = database.count_cells() - len(cells)
    files = [str(path) for path in write_report(cells, out)]

    def show(console: Console) -> None:
        print_lines(console, *files)
        if outdated:
            print_lines(console, _outdated_text(outdated))

    return CommandResult({"files": files, "outdated": outdated, **summarize(cells)}, show)


def _parse_data(texts: Sequence[str]) -> dict[str, Path | None]:
    """Return the file of each data set; `alpaca` has none, `alpaca=FILE` has one."""
    files: dict[str, Path | None] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if equals and not file:
            raise click.BadParameter(
                f"`{text}` names no file; leave the `=` out to take it from the hub", param_hint="--data"
            )
        if name in files:
            raise click.BadParameter(
                f"`{name}` is named twice; use a second study for another file of it", param_hint="--data"
            )
        files[name] = Path(file) if equals else None
    return files


def _count_by_data(cells: Sequence[Cell], value: Callable[[Cell], str]) -> dict[str, dict[str, int]]:
    """Return for each data set how many cells have each value."""
    counts: dict[str, Counter[str]] = {}
    for cell in cells:
        counts.setdefault(cell.data, Counter())[value(cell)] += 1
    return {data: dict(counter) for data, counter in counts.items()}


def _outdated_text(count: int) -> str:
    cells = "cell was" if count == 1 else "cells were"
    return f"{count} more {cells} computed by an incompatible version of mlx-personal and left out."


def _show_result(console: Console, result: StudyResult, folder: Path) -> None:
    print_lines(
        console,
        f"{result.num_computed} cells computed, {result.num_stored} stored already.",
        *(f"failed: {cell.policy} on {cell.data}, seed {cell.seed}: {error}" for cell, error in result.failed),
    )
    if result.skipped:
        count = sum(len(block.cells) for block in result.skipped)
        print_lines(
            console,
            f"Skipped to keep to the budget: {count} cells.",
            *(f"  {block.name}: {len(block.cells)} cells" for block in result.skipped),
        )
    report_command = ProfileOptions().command("study", "report", str(folder), "--out", "FOLDER")
    print_lines(console, f"Tables and figures: {report_command}")
