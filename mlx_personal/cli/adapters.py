"""`adapters`: list the trained adapters, show, promote and roll back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from mlx_personal.cli.context import ID, CommandContext
from mlx_personal.cli.evaluation_table import evaluation_lines, forgetting_lines
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.terminal import print_lines

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.personalizer.answering import AnswerStatus


@click.group()
def adapters() -> None:
    """List the trained adapters and choose the one in use."""


@adapters.command("list")
@json_option
def list_(cli: CommandContext) -> CommandResult:
    """List the adapters with their gain over the base model."""
    with cli.open_profile(write=False) as personalizer:
        records = personalizer.adapters.all()

    def show(console: Console) -> None:
        from rich.table import Table

        if not records:
            print_lines(console, f"No adapter yet; train one with {cli.command('train')}")
            return
        table = Table("adapter", "trained (UTC)", "log-likelihood", "ROUGE-1", "in use")
        for record in records:
            changes = ((record.evaluation or {}).get(metric) for metric in ("log_likelihood", "rouge1"))
            scores = (f"{change['before']:.3f} -> {change['after']:.3f}" if change else "-" for change in changes)
            table.add_row(
                str(record.id), record.created_at[:19].replace("T", " "), *scores, "yes" if record.promoted else ""
            )
        console.print(table)

    return CommandResult([dataclasses.asdict(record) for record in records], show)


@adapters.command("show")
@click.argument("adapter_id", type=ID)
@json_option
def show_(cli: CommandContext, adapter_id: int) -> CommandResult:
    """Show an adapter: its folder, its training data and its evaluation."""
    with cli.open_profile(write=False) as personalizer:
        record = personalizer.adapters.get(adapter_id)
        path = personalizer.folder / record.folder
        sources = personalizer.adapters.training_sources(record)
        taken_back = personalizer.adapters.taken_back_samples(record)
        forgetting = personalizer.adapters.forgetting(record)
    dialogues = sorted({source.dialogue_id for source in sources})
    rows = len(sources) + taken_back.samples
    synthetic = sum(source.synthetic_id is not None for source in sources) + taken_back.synthetic
    data = {**dataclasses.asdict(record), "path": str(path), "rows": rows, "synthetic": synthetic}
    data |= {"dialogues": dialogues, "taken_back": dataclasses.asdict(taken_back), "forgetting": forgetting}

    def show(console: Console) -> None:
        print_lines(
            console,
            f"adapter {record.id}, trained {record.created_at}{', in use' if record.promoted else ''}",
            str(path),
            f"{rows} samples, {synthetic} of them synthetic, from {len(dialogues) + taken_back.dialogues} annotated "
            "dialogues",
        )
        if taken_back.samples:
            imports = f"{taken_back.samples} of these samples, from {taken_back.dialogues} annotated dialogues"
            print_lines(console, f"{imports}, were taken back with their import; the adapter has learned from them.")
        print_lines(console, *forgetting_lines(forgetting))
        if record.evaluation is not None:
            print_lines(console, *evaluation_lines(record.evaluation, f"Adapter {record.id}"))

    return CommandResult(data, show)


@adapters.command()
@click.argument("adapter_id", type=ID)
@json_option
def promote(cli: CommandContext, adapter_id: int) -> CommandResult:
    """Use an adapter for all answers from now on.

    It is used with or without memory as its evaluation decided; without one, without memory.
    """
    with cli.open_profile() as personalizer:
        record = personalizer.adapters.promote(adapter_id)
        answers = personalizer.status().answers
    data = {"promoted": record.id, "uses_memory": answers.mode.uses_memory}
    return CommandResult(data, lambda console: print_lines(console, _in_use_text(answers)))


@adapters.command()
@json_option
def rollback(cli: CommandContext) -> CommandResult:
    """Go back to the adapter, or the base model, that was in use before."""
    with cli.open_profile() as personalizer:
        record = personalizer.adapters.rollback()
        answers = personalizer.status().answers
    data = {"promoted": None if record is None else record.id, "uses_memory": answers.mode.uses_memory}
    return CommandResult(data, lambda console: print_lines(console, _in_use_text(answers)))


def _in_use_text(answers: AnswerStatus) -> str:
    text = answers.mode.text()
    return f"{text[:1].upper()}{text[1:]} answers from now on."
