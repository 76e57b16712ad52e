"""`chat`: talk to the model; what is said goes back into the stream."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
from rich.console import Console

from mlx_personal.cli.context import Answer, Cli, answers, printable, terminal
from mlx_personal.errors import UserError

if TYPE_CHECKING:
    from mlx_personal.chat import Conversation


@click.command()
@click.argument("question", required=False)
@answers
def chat(cli: Cli, question: str | None) -> Answer:
    """Talk to the model with the promoted adapter; one QUESTION gets one answer.

    What is said joins the stream and may be asked about later. An empty line or Ctrl-D ends the conversation.
    """
    if cli.as_json and question is None:
        raise click.UsageError("--json needs a QUESTION")
    with cli.open() as me:
        with cli.progress.status(f"Loading {me.model_name}"):
            conversation, promoted = me.conversation(), me.adapters.promoted()
        with me.remembered(conversation):
            if question is not None:
                answer = _ask_once(conversation, question, terminal(quiet=cli.as_json))
            else:
                who = "the base model" if promoted is None else f"adapter {promoted.id}"
                click.echo(printable(f"{me.model_name}, {who}; an empty line ends the conversation."), err=True)
                answer = None
                _converse(conversation, terminal())
    data = {"question": question, "answer": answer, "adapter": None if promoted is None else promoted.id}
    return Answer(data, lambda console: None)


def _ask_once(conversation: Conversation, question: str, console: Console) -> str:
    try:
        _print_pieces(conversation.ask(question), console)
    except ValueError as error:
        raise UserError(str(error), hint="ask something else") from error
    if conversation.dialogue is None:
        raise UserError("the model gave no answer", hint="ask in other words")
    return conversation.dialogue.answer


def _converse(conversation: Conversation, console: Console) -> None:
    while question := _next_question():
        try:
            _print_pieces(conversation.ask(question), console)
        except ValueError as error:
            click.echo(f"{error}", err=True)


def _next_question() -> str:
    """The next line the owner types; empty at the end of input. UserError if it is not text."""
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
