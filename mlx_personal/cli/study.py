"""`study`: run the selection paper's comparisons, see how far they are, and turn them into tables and figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from mlx_personal.cli.context import Answer, Cli, answers, printable
from mlx_personal.cli.profile import MAC_MODEL
from mlx_personal.cli.study_progress import progress_of_cells, progress_table

if TYPE_CHECKING:
    from mlx_personal.research.study import Cell, Outcome

# Those of the study's rooms, which load the model libraries: `--help` does not wait for them.
_EXPERIMENTS = ("main", "ablation", "own", "tuning", "base", "scripts")
_SWEEPS = ("synthesis", "buffer", "entropy", "annotations", "order")
_DATA = ("alpaca", "dolly", "prosocial", "empathetic", "openorca", "meddialog")
_ORDERS = ("in-order", "shuffled", "correlated")
_PATH = click.Path(path_type=Path)


@click.group()
def study() -> None:
    """Reproduce the selection paper's experiments."""


@study.command()
@click.argument("folder", type=_PATH)
@click.option("--model", default=MAC_MODEL, show_default=True, metavar="NAME_OR_PATH", help="The base model.")
@click.option(
    "--data",
    multiple=True,
    metavar="NAME[=FILE]",
    help=f"A data set, from the Hugging Face hub or from a file: {', '.join(_DATA)}.  [default: all six]",
)
@click.option(
    "--experiment",
    "experiments",
    type=click.Choice(_EXPERIMENTS + _SWEEPS),
    multiple=True,
    default=("main", "ablation"),
    show_default=True,
    help="What to compare; may be given more than once.",
)
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs of each cell.")
@click.option("--order", type=click.Choice(_ORDERS), help="Of the stream; `order` has all.  [default: correlated]")
@click.option("--strength", type=click.FloatRange(0, 1), help="Of `--order correlated`, 0 to 1; `order` has several.")
@click.option("--received", type=click.IntRange(1), help="Dialogue sets in the stream; `own` and `tuning` take half.")
@click.option("--every", type=click.IntRange(1), help="Sets between two trainings; `own` and `tuning` train once.")
@click.option("--evaluation", type=click.IntRange(1), help="Dialogues that are answered after each training.")
@click.option("--answer-tokens", type=click.IntRange(1), help="The longest answer.")
@click.option("--bins", type=click.IntRange(1), help="Of the buffer; `buffer` has 32 to 512 whatever is given.")
@click.option(
    "--synthetic",
    type=click.IntRange(0, 9),
    default=3,
    show_default=True,
    help="Synthetic sets a kept one, in `main`, `ablation`, `own` and `scripts`, which run with them and without; "
    "`synthesis` has 0 to 9, the others none.",
)
@click.option("--writer", type=_PATH, help="Folder of an adapter that writes the synthetic sets.")
@click.option("--general", type=_PATH, help="General dialogues (JSON Lines), to measure forgetting on.")
@click.option("--epochs", type=click.IntRange(1), help="Of each training.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Of each training.")
@click.option("--max-tokens", type=click.IntRange(2), help="The longest training row.")
@click.option("--workers", type=click.IntRange(1), help="Processes on this machine.  [default: one a core]")
@click.option("--ray", metavar="ADDRESS", help="Run on this Ray cluster instead (extra `cluster`).")
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    metavar="MINUTES",
    help="Cut the grid to what fits, and say what not.",
)
@answers
def run(
    cli: Cli,
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
    max_tokens: int | None,
    workers: int | None,
    ray: str | None,
    budget: float | None,
    **sizes: Any,
) -> Answer:
    """Run what FOLDER lacks of the experiments; the same command goes on after an interruption.

    Without options these are the paper's sizes: 4,600 sets, a training every 800, 128 bins.
    """
    from mlx_personal.research.study import Request, run_study

    if sizes["strength"] is not None and sizes["order"] not in (None, "correlated"):
        raise click.UsageError(f"--strength is of `--order correlated`; the order here is {sizes['order']}")
    training = {"epochs": epochs, "learning_rate": learning_rate, "max_seq_length": max_tokens}
    request = Request(
        model=model,
        data=_named(data or _DATA),
        experiments=experiments,
        seeds=seeds,
        synthetic=synthetic,
        writer=writer,
        general=general,
        sizes={name: value for name, value in sizes.items() if value is not None},
        training={name: value for name, value in training.items() if value is not None},
    )
    with progress_of_cells(cli) as on_progress:
        outcome = run_study(folder, request, workers, ray, None if budget is None else 60 * budget, on_progress)
    data_ = {
        "found": outcome.found,
        "ran": outcome.ran,
        "failed": [{"cell": cell.to_json(), "error": error} for cell, error in outcome.failed],
        "left_out": [block.name for block in outcome.left_out],
    }
    return Answer(data_, lambda console: _show(console, outcome, folder), 1 if outcome.failed else 0)


@study.command()
@click.argument("folder", type=_PATH)
@answers
def status(cli: Cli, folder: Path) -> Answer:
    """Tell which cells of the study in FOLDER have been run."""
    from mlx_personal.research.study import Records

    with Records(folder) as records:
        cells = [cell for cell, _ in records.finished()]
        outdated = records.count() - len(cells)
        reasons = records.synthesis_reasons()
    names = list(dict.fromkeys(cell.data for cell in cells))
    policies = {name: dict(Counter(cell.policy for cell in cells if cell.data == name)) for name in names}
    sources = {name: dict(Counter(cell.source for cell in cells if cell.data == name)) for name in names}
    models = {name: dict(Counter(_model(cell) for cell in cells if cell.data == name)) for name in names}

    def show(console: Console) -> None:
        if cells:
            console.print(progress_table({(d, p): (n, n) for d, own in policies.items() for p, n in own.items()}))
        for what, counts in (("sources", sources), ("models", models)):
            for name, own in counts.items():
                if len(own) > 1:
                    line = f"{name} has {len(own)} {what}, which are not compared with each other: {_counted(own)}"
                    console.print(printable(line), soft_wrap=True)
        console.print(f"{len(cells)} cells; synthetic sets: {_counted(reasons) or 'none written'}", soft_wrap=True)
        if not cells:
            console.print("No cell has finished: `mlx-personal study run` goes on.", soft_wrap=True)
        if outdated:
            console.print(_outdated(outdated), soft_wrap=True)

    found = {"cells": len(cells), "by_policy": policies, "by_source": sources, "by_model": models}
    return Answer({**found, "outdated": outdated, "synthetic": reasons}, show)


@study.command()
@click.argument("folder", type=_PATH)
@click.option("--out", type=_PATH, required=True, help="The folder that gets report.md, report.json and the figures.")
@answers
def report(cli: Cli, folder: Path, out: Path) -> Answer:
    """Make tables and figures of the study in FOLDER, with the paper's numbers beside."""
    from mlx_personal.research.study import Records
    from mlx_personal.research.study.report import summary, write_report

    with Records(folder) as records:
        cells = records.finished()
        outdated = records.count() - len(cells)
    written = write_report(cells, out)

    def show(console: Console) -> None:
        for path in written:
            console.print(printable(str(path)), soft_wrap=True)
        if outdated:
            console.print(_outdated(outdated), soft_wrap=True)

    return Answer({"files": [str(path) for path in written], "outdated": outdated, **summary(cells)}, show)


def _named(texts: Sequence[str]) -> dict[str, Path | None]:
    """Of each `alpaca` or `alpaca=FILE` the file."""
    files: dict[str, Path | None] = {}
    for text in texts:
        name, given, file = text.partition("=")
        if given and not file:
            raise click.BadParameter(
                f"`{text}` names no file; leave the `=` out to take it from the hub", param_hint="--data"
            )
        if name in files:
            raise click.BadParameter(
                f"`{name}` is named twice; a second file of it takes a study of its own", param_hint="--data"
            )
        files[name] = Path(file) if given else None
    return files


def _model(cell: Cell) -> str:
    return f"{cell.model_name} {cell.model[:8]}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def _outdated(count: int) -> str:
    cells = "cell is" if count == 1 else "cells are"
    return f"{count} more {cells} of another version of mlx-personal, which computes in another way."


def _show(console: Console, outcome: Outcome, folder: Path) -> None:
    console.print(f"{outcome.ran} cells run, {outcome.found} were there already.", soft_wrap=True)
    for cell, error in outcome.failed:
        console.print(printable(f"failed: {cell.policy} on {cell.data}, seed {cell.seed}: {error}"), soft_wrap=True)
    if outcome.left_out:
        count = sum(len(block.cells) for block in outcome.left_out)
        console.print(f"Left out for the budget: {count} cells.", soft_wrap=True)
        for block in outcome.left_out:
            console.print(printable(f"  {block.name}: {len(block.cells)} cells"), soft_wrap=True)
    console.print(printable(f"Tables and figures: mlx-personal study report {folder} --out FOLDER"), soft_wrap=True)
