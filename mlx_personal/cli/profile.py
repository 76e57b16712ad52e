"""`init` and `status`: a profile's beginning, and where it stands."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlx_personal.cli.context import Answer, Cli, answers, printable

MAC_MODEL = "mlx-community/Llama-3.2-3B-Instruct-4bit"


@click.command()
@click.option(
    "--model",
    metavar="REPO_OR_PATH",
    help=f"A hub repository, a model folder, or `demo`, the embedded model.  [default: {MAC_MODEL} on a Mac]",
)
@answers
def init(cli: Cli, model: str | None) -> Answer:
    """Make a profile, or move one to another base model."""
    from mlx_personal.personalizer import Personalizer
    from mlx_personal.profile import holds_profile

    exists = holds_profile(cli.folder)
    if model is None:
        if exists:
            raise click.UsageError("this profile exists; name a --model to change its base model")
        if sys.platform != "darwin":
            raise click.UsageError("name a --model: a folder, a hub repository, or `demo`")
        model = MAC_MODEL
    if exists:
        with Personalizer(cli.folder) as me:
            bins = len(me.store.bins())
            annotated = sum(a.preferred is not None for a in me.store.annotations())
            with cli.progress.status(Text(printable(f"Loading {model} and embedding the buffer"))):
                me.change_model(model)
    else:
        bins = annotated = 0
        with cli.progress.status(Text(printable(f"Loading {model}"))):
            Personalizer.create(cli.folder, model).close()
    data = {"folder": str(cli.folder), "model": model, "changed": exists, "re_embedded": bins, "annotated": annotated}

    def show(console: Console) -> None:
        if not exists:
            made = printable(f"A new profile in {cli.folder}, on {model}.")
            console.print(f"{made}\nNext: mlx-personal import FILE...", soft_wrap=True)
            return
        console.print(printable(f"The profile is on {model} now; {bins} bins were embedded anew."), soft_wrap=True)
        if annotated:
            console.print(
                f"Your {annotated} annotated dialogues are kept: mlx-personal train makes a new adapter of them."
            )

    return Answer(data, show)


@click.command()
@answers
def status(cli: Cli) -> Answer:
    """Show where the profile stands and what is due."""
    with cli.open(write=False) as me:
        data = me.status()
    return Answer(data, lambda console: _show_status(console, data))


def _show_status(console: Console, data: dict[str, Any]) -> None:
    decisions, questions = data["decisions"], data["questions"]
    table = Table.grid(padding=(0, 2))
    table.add_row("profile", printable(data["folder"]))
    table.add_row("base model", printable(data["model"]))
    table.add_row("dialogues received", f"{data['received']} ({data['unscored']} wait to be scored)")
    table.add_row(
        "buffer",
        f"{data['bins']['filled']} of {data['bins']['capacity']} bins; {decisions.get('replaced', 0)} replaced, "
        f"{decisions.get('kept-out', 0)} kept out, {decisions.get('duplicate', 0)} near-duplicates refused",
    )
    table.add_row("questions", f"{questions['open']} open, {questions['left_today']} left for today")
    table.add_row("annotated", f"{data['annotated']}, of which {data['held_out']} set aside; {data['skipped']} skipped")
    table.add_row("synthetic", f"{data['synthetic']['kept']} kept of {data['synthetic']['written']}")
    answering = "the base model" if data["promoted"] is None else f"adapter {data['promoted']}"
    table.add_row("adapters", f"{data['adapters']}; {answering} answers")
    for due in data["due"] or [{"step": "nothing", "reason": "all is up to date"}]:
        table.add_row("due", f"{due['step']}: {due['reason']}")
    console.print(table)
