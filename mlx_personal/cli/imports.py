"""`imports`: list the imports, show one, and take one back."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

import click

from mlx_personal.cli.context import ID, CommandContext
from mlx_personal.cli.import_ import show_summary
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.terminal import print_lines, printable
from mlx_personal.reporting import counted

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.profile import ImportRow
    from mlx_personal.profile.undo_import import ImportDependents


@click.group()
def imports() -> None:
    """List the imports, and take one back."""


@imports.command("list")
@json_option
def list_(cli: CommandContext) -> CommandResult:
    """List the imports that brought something."""
    with cli.open_store() as store:
        rows = store.imports.all()
        stored = {row.id: store.imports.dialogue_count(row.id) for row in rows}

    def show(console: Console) -> None:
        from rich.table import Table

        if not rows:
            print_lines(console, f"Nothing was imported yet: {cli.command('import', 'PATH')}")
            return
        table = Table("import", "started", "state", "dialogues", "what")
        for row in rows:
            names = ", ".join(path.rpartition("/")[2] or path for path in row.paths)
            table.add_row(str(row.id), _minute(row.started_at), _state(row), f"{stored[row.id]:,}", printable(names))
        console.print(table)

    return CommandResult([{**dataclasses.asdict(row), "dialogues": stored[row.id]} for row in rows], show)


@imports.command("show")
@click.argument("import_id", type=ID)
@json_option
def show_(cli: CommandContext, import_id: int) -> CommandResult:
    """Show what an import brought, and what was made of it."""
    from mlx_personal.profile.undo_import import import_dependents

    with cli.open_store() as store:
        row, dependents = store.imports.get(import_id), import_dependents(store, import_id)

    def show(console: Console) -> None:
        print_lines(console, f"import {row.id}, {row.started_at}, {_state(row)}: {', '.join(row.paths)}")
        if row.summary is not None:
            show_summary(console, row.summary)
        print_lines(
            console,
            f"Now in the profile: {counted(dependents.dialogues, 'dialogue')}, {dependents.selected:,} in the buffer; "
            f"{_dependents_text(dependents)}.",
        )

    return CommandResult({**dataclasses.asdict(row), "dependents": dataclasses.asdict(dependents)}, show)


@imports.command()
@click.argument("import_id", type=ID)
@click.option("--yes", is_flag=True, help="Do not ask, even if verdicts or adapters depend on it.")
@json_option
def undo(cli: CommandContext, import_id: int, yes: bool) -> CommandResult:
    """Take back an import: its dialogues, and all that was made of them.

    Verdicts on them, their bins and their synthetic dialogues are deleted. Adapters that were trained on them stay.
    """
    with cli.open_profile() as personalizer:
        dependents = personalizer.import_dependents(import_id)
        if (dependents.verdicts or dependents.adapters) and not yes:
            depends = f"{_dependents_text(dependents)} depend on it"
            if cli.as_json or not sys.stdin.isatty():
                raise click.UsageError(f"{depends}; confirm it with --yes")
            if not click.confirm(f"{depends}. Take back import {import_id}?", err=True):
                return CommandResult({"undone": None}, lambda console: print_lines(console, "Nothing was deleted."))
        undone = personalizer.undo_import(import_id)
        can_train = bool(personalizer.training_annotations())
    data = {"undone": import_id, **dataclasses.asdict(undone), "adapters": list(dependents.adapters)}

    def show(console: Console) -> None:
        print_lines(
            console,
            f"Import {import_id} was taken back: {counted(undone.deleted, 'dialogue')} deleted, {undone.shortened:,} "
            f"shortened, {counted(undone.freed_bins, 'bin')} freed, {counted(dependents.verdicts, 'verdict')} deleted.",
        )
        if dependents.adapters:
            names = ", ".join(map(str, dependents.adapters))
            print_lines(
                console,
                f"Adapters that learned from it stay: {names}. "
                + (f"Train a new one with {cli.command('train')}, or go" if can_train else "Go")
                + f" back with {cli.command('adapters', 'rollback')}",
            )

    return CommandResult(data, show)


def _state(row: ImportRow) -> str:
    if row.undone_at is not None:
        return "taken back"
    return "interrupted" if row.finished_at is None else "complete"


def _minute(utc_time: str) -> str:
    return utc_time[:16].replace("T", " ")


def _dependents_text(dependents: ImportDependents) -> str:
    return (
        f"{counted(dependents.verdicts, 'verdict')}, {counted(dependents.synthetic, 'synthetic dialogue')} and "
        f"{counted(len(dependents.adapters), 'adapter')}"
    )
