"""`study`: compare selection policies, adapter and memory on public data sets, and report the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mlx_personal.cli.context import MAC_MODEL, CommandContext
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.remedies import ProfileOptions
from mlx_personal.cli.study_progress import cell_table, study_progress
from mlx_personal.cli.terminal import print_lines

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.research.study import StudyResult

# Repeats names of `research.study`, because importing that package would import MLX.
_EXPERIMENTS: Final = ("main", "synthesis", "tuning", "own")
_DATA: Final = ("alpaca", "dolly", "prosocial", "empathetic", "openorca", "meddialog")
_OBJECTIVES: Final = ("sft", "dpo", "orpo", "sft+dpo")
_HISTORIES: Final = ("msc", "locomo", "prefeval")
_ORDERS: Final = ("in-order", "shuffled", "correlated")
_PATH: Final = click.Path(path_type=Path)


@click.group()
def study() -> None:
    """Compare policies, adapter and memory on the data sets of Qin et al., 2024."""


@study.command()
@click.argument("folder", type=_PATH)
@click.option("--model", default=MAC_MODEL, show_default=True, metavar="REPO_OR_PATH", help="Base model.")
@click.option(
    "--data",
    multiple=True,
    metavar="NAME[=FILE]",
    help=f"Data set, from the Hugging Face hub or from a file: {', '.join(_DATA)}.  [default: all six, or none with "
    "`--history`]",
)
@click.option(
    "--history",
    "histories",
    multiple=True,
    metavar="NAME=FILE",
    help=f"Long personal histories from a file: {', '.join(_HISTORIES)}.",
)
@click.option(
    "--users", type=click.IntRange(1), default=30, show_default=True, help="Users of each file of `--history`, at most."
)
@click.option(
    "--experiment",
    "experiments",
    type=click.Choice(_EXPERIMENTS),
    multiple=True,
    default=("main",),
    show_default=True,
    help="Experiment; can be given more than once.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME",
    help="Run only this policy of the experiments; can be given more than once.  [default: all]",
)
@click.option(
    "--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Number of random seeds of each setting."
)
@click.option("--order", type=click.Choice(_ORDERS), help="Order of the stream.  [default: correlated]")
@click.option("--strength", type=click.FloatRange(0, 1), help="Strength of `--order correlated`.  [default: 0.9]")
@click.option(
    "--received",
    type=click.IntRange(1),
    help="Largest number of dialogues in the stream; `own` and `tuning` use half of them.  [default: 900]",
)
@click.option("--evaluation", type=click.IntRange(1), help="Dialogues that are answered.  [default: 60]")
@click.option("--answer-tokens", type=click.IntRange(1), help="Maximum tokens of an answer.  [default: 64]")
@click.option("--choices", type=click.IntRange(2, 100), help="Answers to choose the own one from.  [default: 10]")
@click.option("--bins", type=click.IntRange(1), help="Bins of the buffer.  [default: 64]")
@click.option("--examples", type=click.IntRange(1), help="Kept dialogues before a question, with memory.  [default: 2]")
@click.option(
    "--synthetic",
    type=click.IntRange(1, 9),
    default=2,
    show_default=True,
    help="Synthetic dialogues per dialogue that is trained on, in `synthesis`; other experiments have none.",
)
@click.option("--epochs", type=click.IntRange(1), help="Epochs of each training run.  [default: 3]")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Learning rate.  [default: 3e-4]")
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), help="Dropout of the adapter.  [default: 0.05]")
@click.option("--objective", type=click.Choice(_OBJECTIVES), help="What training minimizes.  [default: sft]")
@click.option(
    "--negatives",
    type=click.IntRange(0, 16),
    help="Answers of other dialogues that are rejected for each one, with an objective of pairs.  [default: 0]",
)
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
    histories: tuple[str, ...],
    users: int,
    experiments: tuple[str, ...],
    policies: tuple[str, ...],
    seeds: int,
    synthetic: int,
    epochs: int | None,
    learning_rate: float | None,
    dropout: float | None,
    objective: str | None,
    negatives: int | None,
    max_seq_length: int | None,
    workers: int | None,
    ray: str | None,
    budget: float | None,
    **cell_settings: Any,
) -> CommandResult:
    """Run the cells of the experiments that are missing in FOLDER.

    A cell is one run: a policy along one stream of dialogues, with one seed; an adapter on what it kept; and all answer
    modes on questions that were not in the stream. The same command resumes an interrupted study. For the sizes of the
    paper: --received 4600 --evaluation 200 --answer-tokens 128 --bins 128.
    """
    from mlx_personal.research.study import StudySpec, run_study

    if cell_settings["strength"] is not None and cell_settings["order"] not in (None, "correlated"):
        raise click.UsageError(f"--strength needs `--order correlated`; the order here is {cell_settings['order']}")
    training = {
        **{"epochs": epochs, "learning_rate": learning_rate, "dropout": dropout, "objective": objective},
        **{"negatives": negatives, "max_seq_length": max_seq_length},
    }
    spec = StudySpec(
        model=model,
        data=_parse_files("--data", data or (() if histories else _DATA)),
        histories=_parse_histories(histories),
        max_users=users,
        experiments=experiments,
        policies=policies or None,
        num_seeds=seeds,
        synthetic=synthetic,
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
    from mlx_personal.research.study import StudyFolder

    study_folder = StudyFolder(folder)
    cells, outdated = [cell for cell, _ in study_folder.finished_cells()], study_folder.outdated_count()
    counts = Counter((cell.data, cell.policy) for cell in cells)

    def show(console: Console) -> None:
        console.print(cell_table({place: (count, count) for place, count in counts.items()}))
        print_lines(console, f"{len(cells)} cells", *_outdated_lines(outdated))

    by_policy: dict[str, dict[str, int]] = {}
    for (data, policy), count in counts.items():
        by_policy.setdefault(data, {})[policy] = count
    return CommandResult({"cells": len(cells), "by_policy": by_policy, "outdated": outdated}, show)


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
    """Make tables and figures of the study in FOLDER."""
    from mlx_personal.research.study import StudyFolder
    from mlx_personal.research.study.report import summarize, write_report

    study_folder = StudyFolder(folder)
    cells, outdated = study_folder.finished_cells(), study_folder.outdated_count()
    files = [str(path) for path in write_report(cells, out)]
    return CommandResult(
        {"files": files, "outdated": outdated, **summarize(cells)},
        lambda console: print_lines(console, *files, *_outdated_lines(outdated)),
    )


def _parse_files(option: str, texts: Sequence[str]) -> dict[str, Path | None]:
    """Return the file of each data set; `alpaca` has none, `alpaca=FILE` has one."""
    files: dict[str, Path | None] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if equals and not file:
            raise click.BadParameter(f"`{text}` names no file", param_hint=option)
        if name in files:
            raise click.BadParameter(
                f"`{name}` is named twice; use a second study for another file of it", param_hint=option
            )
        files[name] = Path(file) if equals else None
    return files


def _parse_histories(texts: Sequence[str]) -> dict[str, Path]:
    """Return the file of each data set of histories, which are not on the hub."""
    files = {}
    for name, file in _parse_files("--history", texts).items():
        if name not in _HISTORIES:
            raise click.BadParameter(f"`{name}` is not one of {', '.join(_HISTORIES)}", param_hint="--history")
        if file is None:
            raise click.BadParameter(f"`{name}` names no file", param_hint="--history")
        files[name] = file
    return files


def _outdated_lines(count: int) -> list[str]:
    if not count:
        return []
    cells = "cell was" if count == 1 else "cells were"
    return [f"{count} more {cells} computed by another version of mlx-personal and left out."]


def _show_result(console: Console, result: StudyResult, folder: Path) -> None:
    print_lines(
        console,
        f"{result.num_computed} cells computed, {result.num_stored} stored already.",
        *(f"failed: {cell.text()}: {error}" for cell, error in result.failed),
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
