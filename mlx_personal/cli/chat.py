"""`chat`: chat with the model; the conversation is added to the stream."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.output import CommandResult, json_option, make_console, printable
from mlx_personal.cli.progress import show_status
from mlx_personal.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.chat import Conversation


@click.command()
@click.argument("question", required=False)
@json_option
def chat(cli: CommandContext, question: str | None) -> CommandResult:
    """Chat with the model and its promoted adapter.

    A QUESTION gets one answer; without it, an empty line or Ctrl-D ends the conversation. The conversation joins your
    dialogues, and you may be asked about it later.
    """
    if cli.as_json and question is None:
        raise click.UsageError("--json needs a QUESTION")
    with cli.open_profile() as personalizer:
        with show_status(cli, f"Loading {personalizer.model_name}"):
            conversation, promoted = personalizer.conversation(), personalizer.adapters.promoted()
        with personalizer.recorded_conversation(conversation):
            if question is not None:
                answer = _answer_once(conversation, question, make_console(quiet=cli.as_json))
            else:
                adapter = "the base model" if promoted is None else f"adapter {promoted.id}"
                notice = f"{personalizer.model_name}, {adapter}; an empty line ends the conversation."
                click.echo(printable(notice), err=True)
                answer = None
                _converse(conversation, make_console())
    data = {"question": question, "answer": answer, "adapter": None if promoted is None else promoted.id}
    return CommandResult(data, lambda console: None)


def _answer_once(conversation: Conversation, question: str, console: Console) -> str:
    try:
        _print_pieces(conversation.ask(question), console)
    except ValueError as error:
        raise UserError(str(error), hint="ask something else") from error
    if conversation.dialogue is None:
        raise UserError("the model gave no answer", hint="ask in other words")
    return conversation.dialogue.answer


def _converse(conversation: Conversation, console: Console) -> None:
    while question := _read_question():
        try:
            _print_pieces(conversation.ask(question), console)
        except ValueError as error:
            click.echo(f"{error}", err=True)


def _read_question() -> str:
    """Return the next line of standard input, empty at its end; UserError if it is not text."""
    if sys.stdin.isatty():
        click.echo("> ", nl=False, err=True)
    try:
        return sys.stdin.readline().strip()
    except UnicodeDecodeError as error:
        raise UserError("not UTF-8 text", "standard input", "check the terminal's encoding") from error


def _print_pieces(pieces: Iterator[str], console: Console) -> None:
    for piece in pieces:
        console.out(printable(piece), end="")
    console.out("")
