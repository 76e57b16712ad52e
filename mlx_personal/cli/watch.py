"""`watch`: folders of other programs, from which `run` imports what is new."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.default_command import DefaultCommandGroup
from mlx_personal.cli.import_ import skipped_texts
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.terminal import print_lines, printable
from mlx_personal.reporting import counted

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.personalizer.watching import Poll


@click.group(cls=DefaultCommandGroup, default_command="add")
def watch() -> None:
    """Watch folders of other programs, from which `run` imports what is new.

    Such as the conversations of LM Studio, the database of the Ollama app, or the sessions of an agent. Nothing runs in
    the background. `watch FOLDER` is `watch add FOLDER`.
    """


@watch.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--format", "format_", metavar="NAME", help="Format of all files, instead of recognizing each one.")
@json_option
def add(cli: CommandContext, folder: Path, format_: str | None) -> CommandResult:
    """Watch a folder or a file."""
    with cli.open_profile() as personalizer:
        path = personalizer.watch(folder, format_)
    text = f"{printable(path)} is watched. Import what is new: {cli.command('run')}"
    return CommandResult({"path": path, "format": format_ or ""}, lambda console: print_lines(console, text))


@watch.command("list")
@json_option
def list_(cli: CommandContext) -> CommandResult:
    """List the watched folders."""
    with cli.open_profile(write=False) as personalizer:
        rows = personalizer.watched_folders()

    def show(console: Console) -> None:
        from rich.table import Column, Table

        if not rows:
            print_lines(console, f"No folder is watched: {cli.command('watch', 'FOLDER')}")
            return
        table = Table(Column("folder", overflow="fold"), "format", "files", "last import")
        for row in rows:
            polled = "never" if row.polled_at is None else row.polled_at[:16].replace("T", " ")
            table.add_row(printable(row.path), row.format or "any", f"{len(row.files):,}", polled)
        console.print(table)

    return CommandResult([{**dataclasses.asdict(row), "files": len(row.files)} for row in rows], show)


@watch.command()
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def remove(cli: CommandContext, folder: Path) -> CommandResult:
    """Stop watching a folder; what was imported from it stays."""
    with cli.open_profile() as personalizer:
        path = personalizer.unwatch(folder)
    text = f"{printable(path)} is no longer watched."
    return CommandResult({"removed": path}, lambda console: print_lines(console, text))


def poll_data(poll: Poll) -> dict[str, Any]:
    """Return what a watched folder brought and what was left out of it, for `--json`.

    Args:
        poll: The result of polling it.
    """
    from mlx_personal.personalizer.import_summary import ImportSummary

    summary = ImportSummary() if poll.result is None else poll.result.summary
    return {
        "path": poll.path,
        "changed": poll.changed,
        "import": None if poll.result is None else poll.result.import_id,
        "new": summary.total("new"),
        "continued": summary.total("continued"),
        "skipped": summary.to_json()["skipped"],
        "problem": poll.problem,
    }


def poll_lines(poll: Poll) -> list[str]:
    """Return what a watched folder brought and what was left out of it, as lines.

    Args:
        poll: The result of polling it.
    """
    if poll.result is None:
        return [f"Not imported: {poll.problem}"]
    data = poll_data(poll)
    return [
        f"{poll.path}: {data['new']:,} new and {data['continued']:,} continued conversations imported"
        f" from {counted(poll.changed, 'changed file')}.",
        *(f"{words}{rest}" for words, rest in skipped_texts(data["skipped"])),
        *(f"Not imported: {error.line()}" for error in poll.result.failed),
    ]
