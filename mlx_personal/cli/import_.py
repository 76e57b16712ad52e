"""`import`: read dialogues from files, score and select them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.output import CommandResult, json_option, print_lines, print_styled
from mlx_personal.cli.progress import progress_bar
from mlx_personal.errors import UserError, escape_surrogates

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.dialogue import InvalidLine


@click.command(name="import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def import_(cli: CommandContext, files: tuple[Path, ...]) -> CommandResult:
    """Import dialogues from JSONL FILES, then score and select them.

    A line is {"messages": [{"role": ..., "content": ...}, ...]}, a list of such messages, or
    {"prompt": ..., "completion": ...}. Invalid lines are reported and skipped.
    """
    from mlx_personal.dialogue import InvalidLine, read_dialogues

    invalid: list[InvalidLine] = []
    read = new = 0
    with cli.open_profile() as personalizer:
        for file in files:
            lines = list(read_dialogues(file))
            dialogues = [line for line in lines if not isinstance(line, InvalidLine)]
            invalid += [line for line in lines if isinstance(line, InvalidLine)]
            read += len(dialogues)
            new += personalizer.add_dialogues(dialogues, f"import:{escape_surrogates(file.name)}")
        if not read:
            raise UserError(
                f"no dialogue could be read ({invalid[0].reason})" if invalid else "no dialogue in this file",
                invalid[0].where if invalid else files[0],
                'each line must be {"messages": [...]}',
            )
        with progress_bar(cli, "Scoring") as on_progress:
            decisions = personalizer.score(on_progress)
        open_questions = len(personalizer.annotations.open_questions())
    data = {
        "read": read,
        "new": new,
        "bad_lines": [{"where": line.where, "reason": line.reason} for line in invalid],
        "decisions": decisions,
        "open_questions": open_questions,
    }

    def show(console: Console) -> None:
        for line in invalid:
            print_styled(console, "skipped", "yellow", f" {line.where}: {line.reason}")
        print_lines(
            console,
            f"{read} dialogues read, {new} of them new, {len(invalid)} invalid lines skipped.",
            f"Buffer: {decisions.get('stored', 0)} stored in free bins, {decisions.get('replaced', 0)} replaced a bin, "
            f"{decisions.get('kept-out', 0)} rejected, {decisions.get('duplicate', 0)} near-duplicates rejected.",
        )
        if open_questions:
            print_lines(console, f"{open_questions} questions are open; answer them with {cli.command('review')}")

    return CommandResult(data, show)
