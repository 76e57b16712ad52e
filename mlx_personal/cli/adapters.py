"""`adapters`: list, show, promote, roll back."""

from __future__ import annotations

import dataclasses

import click
from rich.console import Console
from rich.table import Table

from mlx_personal.cli.context import ID, Answer, Cli, answers, printable
from mlx_personal.cli.training import evaluation_line


@click.group()
def adapters() -> None:
    """Look at the trained adapters and choose which one answers."""


@adapters.command("list")
@answers
def list_(cli: Cli) -> Answer:
    """List the adapters with their gain over the base model."""
    with cli.open(write=False) as me:
        rows = me.store.adapters()

    def show(console: Console) -> None:
        table = Table("adapter", "trained", "ROUGE-1 before", "after", "answers")
        for row in rows:
            rouge = None if row.evaluation is None else row.evaluation["rouge1"]
            figures = ("-", "-") if rouge is None else (f"{rouge['before']:.3f}", f"{rouge['after']:.3f}")
            table.add_row(str(row.id), row.created_at, *figures, "yes" if row.promoted else "")
        console.print(table if rows else "No adapter yet: mlx-personal train")

    return Answer([dataclasses.asdict(row) for row in rows], show)


@adapters.command("show")
@click.argument("adapter_id", type=ID)
@answers
def show(cli: Cli, adapter_id: int) -> Answer:
    """Show an adapter: where it is, what it was trained on, how it did."""
    with cli.open(write=False) as me:
        row = me.adapters.get(adapter_id)
        path = me.folder / row.folder
        sources = me.store.training_sources(row.run_id)
    dialogues = sorted({s["dialogue_id"] for s in sources})
    synthetic = sum(s["synthetic_id"] is not None for s in sources)
    data = {**dataclasses.asdict(row), "path": str(path), "rows": len(sources), "synthetic": synthetic}
    data["dialogues"] = dialogues

    def show_adapter(console: Console) -> None:
        console.print(f"adapter {row.id}, trained {row.created_at}{', answers now' if row.promoted else ''}")
        console.print(printable(str(path)), soft_wrap=True)
        console.print(f"{len(sources)} rows, {synthetic} of them synthetic, from {len(dialogues)} annotated dialogues")
        if row.evaluation is not None:
            console.print(evaluation_line(row.evaluation))

    return Answer(data, show_adapter)


@adapters.command()
@click.argument("adapter_id", type=ID)
@answers
def promote(cli: Cli, adapter_id: int) -> Answer:
    """Let this adapter answer from now on."""
    with cli.open() as me:
        row = me.adapters.promote(adapter_id)
    return Answer({"promoted": row.id}, lambda console: console.print(f"Adapter {row.id} answers from now on."))


@adapters.command()
@answers
def rollback(cli: Cli) -> Answer:
    """Back to what answered before the present adapter."""
    with cli.open() as me:
        row = me.adapters.rollback()
    who = "The base model" if row is None else f"Adapter {row.id}"
    return Answer(
        {"promoted": None if row is None else row.id}, lambda console: console.print(f"{who} answers from now on.")
    )
