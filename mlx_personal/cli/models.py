"""`models`: list the models of this machine, show one, delete converted ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.default_command import DefaultCommandGroup
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.progress import bytes_text
from mlx_personal.cli.terminal import print_lines, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from mlx_personal.personalizer.model_list import ListedModel

_FITS = {True: "yes", False: "no", None: "?"}


@click.group(cls=DefaultCommandGroup, default_command="list")
def models() -> None:
    """List the models that this machine has, and delete converted ones.

    Without a command, `list` is called.
    """


@models.command("list")
@json_option
def list_(cli: CommandContext) -> CommandResult:
    """List the models with their sizes, and whether they fit into memory.

    They are those of the Hugging Face cache, LM Studio, Ollama and llama.cpp, and those converted before.
    """
    from mlx_personal.personalizer.model_list import list_models

    listed = list_models(cli.home)
    return CommandResult([model.to_json() for model in listed], lambda console: _show_list(console, cli, listed))


@models.command()
@click.argument("name")
@json_option
def show(cli: CommandContext, name: str) -> CommandResult:
    """Show one model by the NAME that the list has for it."""
    from mlx_personal.personalizer.chat_format_record import describe_chat_format
    from mlx_personal.personalizer.model_list import find_listed_model

    listed = find_listed_model(cli.home, name)
    folder = Path(listed.model.path)
    # A file that is not converted yet has no chat template that could be run.
    chat_format = describe_chat_format(folder) if listed.model.problem is None and folder.is_dir() else None

    def show_model(console: Console) -> None:
        from rich.table import Table

        model = listed.model
        table = Table.grid(padding=(0, 2))
        rows = {
            "name": model.name,
            "in": model.store,
            "path": model.path,
            "converted from": listed.source,
            "architecture": model.architecture,
            "parameters": _count_text(model.parameters),
            "quantization": model.quantization,
            "context": None if model.context_length is None else f"{model.context_length} tokens",
            "on disk": bytes_text(model.size_bytes),
            "chat format": chat_format,
            "memory for chat": _memory_text(listed.chat_bytes, listed.fits_chat),
            "memory for training": _memory_text(listed.training_bytes, listed.fits_training),
            "base model of": ", ".join(listed.profiles),
            "cannot be used": model.problem,
        }
        for title, value in rows.items():
            if value:
                table.add_row(title, printable(value))
        console.print(table)

    return CommandResult({**listed.to_json(), "chat_format": chat_format}, show_model)


@models.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Delete it even if it is the base model of a profile.")
@json_option
def delete(cli: CommandContext, name: str, yes: bool, force: bool) -> CommandResult:
    """Delete the converted model NAME; the file that it was made from is kept."""
    from mlx_personal.personalizer.model_list import check_deletable, delete_model

    check_deletable(cli.home, name, force)
    if not yes:
        if cli.as_json or not sys.stdin.isatty():
            raise click.UsageError("confirm it with --yes")
        if not click.confirm(f"Delete the converted model {printable(name)}?", err=True):
            return CommandResult({"deleted": None}, lambda console: print_lines(console, "Nothing was deleted."))
    freed_bytes = delete_model(cli.home, name, force)
    data = {"deleted": name, "freed_bytes": freed_bytes}
    return CommandResult(
        data, lambda console: print_lines(console, f"Deleted {name}; {bytes_text(freed_bytes)} freed.")
    )


def _show_list(console: Console, cli: CommandContext, listed: Sequence[ListedModel]) -> None:
    usable = [model for model in listed if model.model.problem is None]
    if usable:
        rows = [["architecture", "parameters", "stored as", "on disk", "chat", "training", "name"]]
        for item in usable:
            model = item.model
            numbers = [_count_text(model.parameters) or "?", model.quantization or "?", bytes_text(model.size_bytes)]
            rows.append(
                [
                    model.architecture or "?",
                    *numbers,
                    _FITS[item.fits_chat],
                    _FITS[item.fits_training],
                    _one_line(model.name),
                ]
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        # The name comes last and is not wrapped, so that it can be copied.
        print_lines(console, *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows))
        print_lines(
            console,
            "",
            "chat, training: whether its memory is available on this machine now",
            f"To use one: {cli.command('init', '--model', 'NAME')}",
        )
    else:
        print_lines(console, f"No model that can be used; {cli.command('init', '--model', 'demo')} needs none.")
    unusable = [item.model for item in listed if item.model.problem is not None]
    if unusable:
        print_lines(console, "", "Cannot be used:")
        print_lines(console, *(_one_line(f"  {model.name} ({model.store}): {model.problem}") for model in unusable))


def _one_line(text: str) -> str:
    """Return a text without line feeds, which names of files may contain."""
    return text.replace("\n", "\ufffd")


def _count_text(parameters: int | None) -> str | None:
    """Return a number of parameters as model names have it."""
    if parameters is None:
        return None
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"


def _memory_text(needed_bytes: int | None, fits: bool | None) -> str | None:
    """Return an amount of memory, and whether it is available."""
    if needed_bytes is None:
        return None
    available = {True: ", available", False: ", more than is available now", None: ""}[fits]
    return f"{bytes_text(needed_bytes)}{available}"
