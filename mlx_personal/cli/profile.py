"""`init` and `status`: create a profile and show its state."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

import click

from mlx_personal.cli.context import MAC_MODEL, CommandContext
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.progress import progress_bar, show_status
from mlx_personal.cli.terminal import print_lines, printable
from mlx_personal.reporting import counted

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.personalizer import ProfileStatus
    from mlx_personal.profile.inferred import InferredCounts


@click.command()
@click.option(
    "--model",
    metavar="NAME",
    help="Hub repository, model folder, .gguf file, `ollama:NAME`, `lmstudio:PUBLISHER/NAME`, or `demo` for the "
    f"embedded model; `models` lists those on this machine.  [default: {MAC_MODEL} on a Mac]",
)
@json_option
def init(cli: CommandContext, model: str | None) -> CommandResult:
    """Create a profile, or change its base model.

    After a change of the base model the buffer is embedded again; annotations are kept.
    """
    from mlx_personal.models.finding import find_model
    from mlx_personal.personalizer import Personalizer, read_status
    from mlx_personal.profile import is_profile

    exists = is_profile(cli.profile_folder)
    if model is None:
        if exists:
            raise click.UsageError("this profile exists; name a --model to change its base model")
        if sys.platform != "darwin":
            raise click.UsageError("name a --model: a folder, a hub repository, or `demo`")
        model = MAC_MODEL
    with progress_bar(cli) as on_progress:
        found = find_model(model, on_progress)
    if exists:
        with Personalizer(cli.profile_folder) as personalizer:
            annotated = len(personalizer.annotated_dialogues())
            with show_status(cli, f"Loading {model} and embedding the buffer"):
                bins = personalizer.change_model(found.name)
    else:
        bins = annotated = 0
        with show_status(cli, f"Loading {model}"):
            Personalizer.create(cli.profile_folder, found.name).close()
    chat_format_notes = read_status(cli.profile_folder).chat_format_notes
    data = {
        "folder": str(cli.profile_folder),
        "model": model,
        "base_model": found.name,
        "note": found.note,
        "chat_format": list(chat_format_notes),
        "changed": exists,
        "re_embedded": bins,
        "annotated": annotated,
    }

    def show(console: Console) -> None:
        if found.note is not None:
            print_lines(console, f"{found.note}.")
        notes = [f"Chat format: {note}." for note in chat_format_notes]
        if not exists:
            print_lines(
                console,
                f"Created a profile in {cli.profile_folder} with the base model {model}.",
                *notes,
                f"Next: {cli.command('import', 'FILE')}",
            )
            return
        print_lines(
            console, f"The base model is now {model}; {bins} dialogues of the buffer were embedded again.", *notes
        )
        if annotated:
            print_lines(
                console,
                f"Your {annotated} annotated dialogues are kept; train a new adapter with {cli.command('train')}",
            )

    return CommandResult(data, show)


@click.command()
@json_option
def status(cli: CommandContext) -> CommandResult:
    """Show the state of the profile and its pending steps."""
    from mlx_personal.personalizer import read_status

    result = read_status(cli.profile_folder)
    return CommandResult(result.to_json(), lambda console: _show_status(console, result))


def _show_status(console: Console, status: ProfileStatus) -> None:
    from rich.table import Table

    decisions = status.decisions
    in_use = "the base model" if status.promoted is None else f"adapter {status.promoted}"
    table = Table.grid(padding=(0, 2))
    table.add_row("profile", printable(status.folder))
    source = "" if status.model_source is None else f" (from {status.model_source})"
    table.add_row("base model", printable(f"{status.model}{source}"))
    for number, note in enumerate(status.chat_format_notes):
        table.add_row("" if number else "chat format", printable(note))
    table.add_row("dialogues", f"{status.received} received, {status.unscored} not scored yet")
    table.add_row(
        "buffer",
        f"{status.filled_bins} of {status.bin_capacity} bins filled; {decisions.get('replaced', 0)} replaced, "
        f"{decisions.get('kept-out', 0)} rejected, {counted(decisions.get('duplicate', 0), 'near-duplicate')} rejected",
    )
    table.add_row("questions", f"{status.open_questions} open, {status.questions_left_today} more can be asked today")
    table.add_row("annotated", f"{status.annotated}, {status.held_out} of them held out; {status.skipped} skipped")
    style = "" if status.prompt_style is None else f", prompt style {status.prompt_style}"
    if any(dataclasses.astuple(status.inferred)):
        table.add_row("from imports", _inferred_text(status.inferred))
    table.add_row("synthetic", printable(f"{status.synthetic_kept} kept of {status.synthetic_generated}{style}"))
    table.add_row("adapters", f"{status.adapters}; {in_use} is in use")
    for number, line in enumerate(status.answers.lines()):
        table.add_row("" if number else "answers", line)
    if status.tuning is not None:
        table.add_row("tuned", status.tuning.text())
    for pending in status.pending:
        table.add_row("pending", f"{pending.step}: {pending.reason}")
    if not status.pending:
        table.add_row("pending", "nothing; everything is up to date")
    console.print(table)


def _inferred_text(counts: InferredCounts) -> str:
    """Return the line on verdicts that follow from imports; the annotations are among those of the lines above."""
    accepted = f"{counts.annotated} annotated without asking, {counts.held_out} of them held out"
    return (
        f"{counted(counts.proposals, 'proposal')} open, {counts.taken} taken; {accepted}; {counts.skipped} skipped; "
        f"{counted(counts.pairs, 'preference pair')}"
    )
