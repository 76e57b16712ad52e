"""`import`: read the conversations of files, folders and zips, then score and select them."""

from __future__ import annotations

import datetime
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.progress import progress_bar
from mlx_personal.cli.remedies import error_line
from mlx_personal.cli.terminal import print_lines, print_notice, print_styled, printable
from mlx_personal.reporting import counted

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.importers import ImportedDialogue
    from mlx_personal.personalizer import ImportResult, Personalizer

# Characters of a question and its answer in the examples of `--dry-run`.
_EXAMPLE_CHARS = 100
_DAY = datetime.timedelta(days=1)
_DATE = click.DateTime(["%Y-%m-%d"])


def _check_day(
    context: click.Context, parameter: click.Parameter, day: datetime.datetime | None
) -> datetime.datetime | None:
    """Refuse a day that begins or ends at a time which cannot be represented, such as those of the years 1 and 9999."""
    try:
        for time in () if day is None else (day, day + _DAY):
            time.timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise click.BadParameter("no conversation is that old or new", context, parameter) from error
    return day


@click.command(name="import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "format_", metavar="NAME", help="Format of all files, instead of recognizing each one.")
@click.option(
    "--since",
    type=_DATE,
    callback=_check_day,
    metavar="DATE",
    help="Leave out conversations that ended before this day.",
)
@click.option(
    "--until",
    type=_DATE,
    callback=_check_day,
    metavar="DATE",
    help="Leave out conversations that began after this day.",
)
@click.option("--app", default="", metavar="NAME", help="Take the conversations of this app only.")
@click.option("--title", default="", metavar="TEXT", help="Take conversations with this text in their title only.")
@click.option("--dry-run", is_flag=True, help="Show what would be taken and what skipped, and store nothing.")
@click.option("--select-later", is_flag=True, help="Store the dialogues; the next `run` scores and selects them.")
@click.option("--yes", is_flag=True, help="Download data sets of the Hugging Face hub without asking.")
@json_option
def import_(
    cli: CommandContext,
    paths: tuple[Path, ...],
    format_: str | None,
    since: datetime.datetime | None,
    until: datetime.datetime | None,
    app: str,
    title: str,
    dry_run: bool,
    select_later: bool,
    yes: bool,
) -> CommandResult:
    """Import conversations from PATHS, then score and select them.

    A path is a file, a folder or a zip: an app's export, a folder of its files, a session of an agent, or a training
    set. `-` is standard input, and OWNER/NAME is a data set of the Hugging Face hub. Formats are recognized. What
    cannot be read is counted and skipped, and what was imported before is not imported again.
    """
    from mlx_personal.personalizer import ImportOptions

    options = ImportOptions(
        format_,
        None if since is None else since.timestamp(),
        None if until is None else (until + _DAY).timestamp(),
        app,
        title,
    )
    if since is not None and until is not None and since > until:
        raise click.BadParameter("is later than --until", param_hint="--since")
    decisions: dict[str, int] = {}
    accepted = 0
    with cli.open_profile(write=not dry_run) as personalizer:
        local_paths = [file for path in paths for file in _local_files(cli, path, yes, len(paths) == 1)]
        with progress_bar(cli, "Reading", in_bytes=True) as on_progress:
            result = personalizer.import_paths(local_paths, options, on_progress, dry_run)
        for error in result.failed:
            print_notice(error_line(error, cli.profile_options))
        if not dry_run and not select_later:
            decisions, accepted = run_scoring(cli, personalizer)
        open_questions, unscored = personalizer.annotations.open_question_count(), personalizer.unscored_count()
    data = {
        "import": result.import_id,
        "dry_run": dry_run,
        "read": result.summary.total("dialogues"),
        **{name: result.summary.total(name) for name in ("conversations", "new", "continued", "known")},
        **result.summary.to_json(),
        "failed": [error.line() for error in result.failed],
        "decisions": decisions,
        "accepted": accepted,
        "unscored": unscored,
        "open_questions": open_questions,
    }
    if dry_run:
        data["examples"] = [_example(imported) for imported in result.examples]

    def show(console: Console) -> None:
        show_summary(console, data)
        if dry_run:
            _show_examples(console, result)
            return
        if decisions:
            print_lines(console, decisions_text(decisions))
        if accepted:
            print_lines(console, f"{accepted_text(accepted)}.")
        if unscored:
            waiting = counted(unscored, "dialogue waits to be scored", "dialogues wait to be scored")
            print_lines(console, f"{waiting}: {cli.command('run')}")
        if open_questions:
            print_lines(console, open_questions_text(cli, open_questions))

    return CommandResult(data, show, exit_code=2 if result.failed else 0)


def run_scoring(cli: CommandContext, personalizer: Personalizer) -> tuple[dict[str, int], int]:
    """Score and select all unscored dialogues, and accept the proposals on them if this is the setting.

    Returns:
        The number of dialogues for each action of the selection, and the number of accepted proposals.

    Raises:
        StoppedError: If a signal stops it.
    """
    from mlx_personal.errors import StoppedError
    from mlx_personal.runtime.signals import TerminatedError, terminate_immediately

    try:
        with terminate_immediately():
            with progress_bar(cli, "Scoring") as on_progress:
                decisions = personalizer.score(on_progress)
            with progress_bar(cli, "Accepting") as on_progress:
                accepted = personalizer.annotations.accept_inferred(on_progress)
    except (KeyboardInterrupt, TerminatedError) as error:
        number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else error.signal
        hint = f"go on with {cli.command('run')}"
        raise StoppedError("scoring was stopped; all dialogues are stored", number, hint) from None
    return decisions, accepted


def _local_files(cli: CommandContext, path: Path, yes: bool, is_only: bool) -> list[Path]:
    """Return a path itself, or the files of the data set on the hub that it names, downloaded after permission.

    Without permission it is a path that does not exist, so that the others are still imported.
    """
    from mlx_personal.errors import UserError
    from mlx_personal.importers.hub_dataset import dataset_files, is_dataset_name

    name = str(path)
    if not is_dataset_name(name) or path.exists():
        return [path]
    if not yes:
        try:
            return dataset_files(name, allow_download=False)
        except UserError as error:
            question = f"{name} is a data set of the Hugging Face hub. Download it?"
            if cli.as_json or not sys.stdin.isatty() or not click.confirm(question, err=True):
                if not is_only:
                    return [path]
                what = "there is no such file, and no such data set of the hub on this machine"
                raise UserError(what, name, "correct the path, or allow the download with --yes") from error
    return dataset_files(name, allow_download=True)


def show_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """Print what an import read, stored and left out.

    Args:
        console: The console.
        summary: An `ImportSummary` as JSON.
    """
    from rich.table import Table

    columns = ("conversations", "dialogues", "new", "continued", "known", "skipped")
    table = Table("app", *columns)
    for name, counts in summary["apps"].items():
        table.add_row(printable(name), *(f"{counts[column]:,}" for column in columns))
    console.print(table)
    for words, rest in skipped_texts(summary["skipped"]):
        print_styled(console, words, "yellow", rest)
    proposals = summary["proposals"]
    if any(proposals.values()):
        print_lines(
            console,
            f"Verdicts in the export: {proposals['good']:,} good, {proposals['bad']:,} bad; "
            f"{counted(proposals['pairs'], 'pair')} of a preferred and another answer.",
        )


def skipped_texts(skipped: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what an import left out as lines, each in two parts: how many there are, and why and where.

    Args:
        skipped: The list `skipped` of an `ImportSummary` as JSON.
    """
    lines = []
    for row in skipped:
        count = row["count"]
        words = f"{count:,} left out of conversations" if row["is_turn"] else f"{count:,} skipped"
        places = _places_text(row["places"]) + (", ..." if count > len(row["places"]) else "")
        lines.append((f"{words}:", f" {row['reason']} ({places})"))
    return lines


def _places_text(places: Sequence[str]) -> str:
    """Return places as text, such as `chats.json:1, 2, other.json:5`: a file is named once."""
    texts, last_file = [], ""
    for place in places:
        file, _, number = place.rpartition(":")
        texts.append(number if file and file == last_file else place)
        last_file = file
    return ", ".join(texts)


def decisions_text(decisions: Mapping[str, int]) -> str:
    """Return the numbers of the selection's decisions as text.

    Args:
        decisions: Number of dialogues for each action of the selection.
    """
    return (
        f"Buffer: {decisions.get('stored', 0)} stored in free bins, {decisions.get('replaced', 0)} replaced a bin, "
        f"{decisions.get('kept-out', 0)} rejected, {counted(decisions.get('duplicate', 0), 'near-duplicate')} rejected."
    )


def accepted_text(accepted: int) -> str:
    """Return the number of verdicts that were accepted without asking as text."""
    return counted(
        accepted, "verdict that follows from an export was accepted", "verdicts that follow from exports were accepted"
    )


def open_questions_text(cli: CommandContext, count: int) -> str:
    """Return the number of open questions as text, with the command that asks them."""
    return f"{counted(count, 'question is', 'questions are')} open; answer with {cli.command('review')}"


def _example(imported: ImportedDialogue) -> dict[str, str]:
    return {
        "app": imported.conversation.app,
        "title": imported.conversation.title,
        "question": imported.dialogue.user_turns[0],
        "answer": imported.dialogue.assistant_turns[0],
    }


def _show_examples(console: Console, result: ImportResult) -> None:
    new = result.summary.total("new") + result.summary.total("continued")
    print_lines(console, f"Nothing was stored. {counted(new, 'dialogue')} would be" + (", such as:" if new else "."))
    for imported in result.examples:
        example = {name: " ".join(text.split())[:_EXAMPLE_CHARS] for name, text in _example(imported).items()}
        print_styled(console, example["title"] or example["app"], "bold", f" {example['question']}")
        print_lines(console, f"    {example['answer']}")
