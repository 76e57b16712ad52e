"""`chat`: chat with the model; the conversation is added to the stream."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.progress import show_status
from mlx_personal.cli.terminal import make_console, print_notice, printable
from mlx_personal.errors import StoppedError, UserError, quoted

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.chat import ChatConfig, Conversation
    from mlx_personal.memory import RetrievedExample
    from mlx_personal.personalizer import Personalizer

_HELP: Final = '''\
"""      begin and end a question of several lines
Ctrl-C   stop an answer; at the prompt, end the conversation
/why     show which of your dialogues were in the prompt as examples, and how near they are
/help    show this
/exit    end the conversation, as an empty line and Ctrl-D do'''
_MULTI_LINE: Final = '"""'


@click.command()
@click.argument("question", required=False)
@click.option("--temperature", type=float, help="Softmax temperature; 0 is greedy.")
@click.option("--top-p", type=float, help="Sample from the likeliest tokens that together have this probability.")
@click.option("--top-k", type=int, help="Sample from this number of likeliest tokens; 0 for all.")
@click.option("--min-p", type=float, help="Smallest probability of a token, relative to the likeliest one's.")
@click.option("--repetition-penalty", type=float, help="Make the last 20 tokens less likely by this factor.")
@click.option("--max-tokens", type=int, help="Maximum number of tokens of an answer.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End an answer before this text; may be repeated.")
@click.option("--system", metavar="TEXT", help="System prompt; an empty one for none.")
@click.option("--seed", type=click.IntRange(min=0), help="Random seed of the sampling.  [default: a random one]")
@click.option(
    "--adapter-path",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Chat with this adapter in mlx-lm's format instead of the promoted one.",
)
@json_option
def chat(
    cli: CommandContext, question: str | None, seed: int | None, adapter_path: Path | None, **settings: Any
) -> CommandResult:
    """Chat with the model and its promoted adapter.

    A QUESTION gets one answer. Without it, each line is a question until an empty line, /exit or Ctrl-D; /help lists
    what else can be typed. The conversation joins your dialogues after each answer, and you may be asked about it
    later.

    Where an option is not given, the profile's settings apply, and where these say nothing, those of the model.
    """
    from mlx_personal.runtime.signals import TerminatedError, terminate_immediately

    if cli.as_json and question is None:
        raise click.UsageError("--json needs a QUESTION")
    try:
        with terminate_immediately(), cli.open_profile() as personalizer:
            return _chat(cli, personalizer, question, _override(personalizer.config.chat, settings), seed, adapter_path)
    except TerminatedError as error:
        what = "the conversation was ended; all complete answers are stored"
        raise StoppedError(what, error.signal) from None


def _override(config: ChatConfig, settings: dict[str, Any]) -> ChatConfig:
    """Return the profile's settings, replaced by those that were given as options."""
    given = {name: value for name, value in settings.items() if value is not None and value != ()}
    try:
        return dataclasses.replace(config, **given)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _chat(
    cli: CommandContext,
    personalizer: Personalizer,
    question: str | None,
    config: ChatConfig,
    seed: int | None,
    adapter_path: Path | None,
) -> CommandResult:
    with show_status(cli, f"Loading {personalizer.model_name}"):
        conversation = personalizer.conversation(config, adapter_path, seed)
    promoted = personalizer.adapters.promoted() if adapter_path is None else None
    for notice in conversation.notices:
        print_notice(notice)
    with personalizer.recorded_conversation(conversation, adapter_path):
        if question is not None:
            answer = _answer_once(conversation, question, make_console(quiet=cli.as_json))
        else:
            adapter = "the base model" if promoted is None else f"adapter {promoted.id}"
            if adapter_path is not None:
                adapter = f"the adapter in {adapter_path}, whose answers join your dialogues like imported ones"
            click.echo(printable(f"{personalizer.model_name}, {adapter}; {_settings_text(conversation)}."), err=True)
            click.echo("An empty line ends the conversation; /help shows what else can be typed.", err=True)
            answer = None
            _converse(conversation, make_console())
    data = {
        "question": question,
        "answer": answer,
        "adapter": None if promoted is None else promoted.id,
        "adapter_path": None if adapter_path is None else str(adapter_path),
        "settings": {
            **dataclasses.asdict(conversation.sampling),
            "max_tokens": conversation.max_tokens,
            "system": conversation.system,
        },
        "examples": [
            {
                "dialogue": example.entry.id,
                "annotated": example.entry.is_annotated,
                "similarity": example.similarity,
            }
            for example in conversation.prompt_examples
        ],
    }
    return CommandResult(data, lambda console: None)


def _settings_text(conversation: Conversation) -> str:
    """Return the settings of the answers that are in force, such as `temperature 0.7, at most 512 tokens an answer`."""
    sampling, recommended = conversation.sampling, conversation.recommended
    names = [] if sampling.is_greedy else ["temperature", "top_p", "top_k", "min_p"]
    default = type(sampling)()
    changed = [name for name in (*names, "repetition_penalty") if getattr(sampling, name) != getattr(default, name)]
    # Those of the model last, with one note on all of them.
    changed.sort(key=lambda name: name in recommended)
    parts = ["greedy"] if sampling.is_greedy else []
    parts += [f"{name.replace('_', ' ')} {getattr(sampling, name):g}" for name in changed]
    if recommended:
        parts[-len(recommended)] = f"by the model's generation_config.json {parts[-len(recommended)]}"
    parts.append(f"at most {conversation.max_tokens:,} tokens an answer")
    if sampling.stop:
        parts.append(f"stop at {', '.join(map(repr, sampling.stop))}")
    if conversation.max_examples:
        parts.append(f"up to {conversation.max_examples} of your dialogues as examples")
    if conversation.system:
        parts.append(f"system prompt {quoted(conversation.system)}")
    return ", ".join(parts)


def _examples_text(conversation: Conversation) -> str:
    """Return which dialogues were in the last prompt, one line each, or why there were none."""
    if conversation.prompt_examples:
        return "\n".join(map(_example_text, conversation.prompt_examples))
    if conversation.examples is None:
        return "Nothing has been asked yet."
    if conversation.examples:
        return "No dialogue was in the last prompt: the conversation has grown too long for examples."
    if not conversation.max_examples:
        return "No dialogue was in the prompt: the memory is not used, as the status of the profile says."
    return "No dialogue was in the prompt: none that fits is near enough to the first question."


def _example_text(example: RetrievedExample) -> str:
    from mlx_personal.memory import first_question

    entry = example.entry
    kind = "annotated" if entry.is_annotated else "not annotated"
    return f"Dialogue {entry.id}, similarity {example.similarity:.2f}, {kind}: {quoted(first_question(entry.dialogue))}"


def _answer_once(conversation: Conversation, question: str, console: Console) -> str:
    try:
        _print_pieces(conversation.ask(question), console)
    except ValueError as error:
        raise UserError(str(error), hint="ask something else") from error
    if conversation.dialogue is None:
        raise UserError("the model gave no answer", hint="ask in other words")
    return conversation.dialogue.answer


def _converse(conversation: Conversation, console: Console) -> None:
    from mlx_personal.runtime.signals import stop_on_signal

    while (question := _read_question()) and question != "/exit":
        if question == "/help":
            click.echo(_HELP, err=True)
            continue
        if question == "/why":
            click.echo(printable(_examples_text(conversation)), err=True)
            continue
        before = conversation.dialogue
        try:
            with stop_on_signal(signal.SIGINT) as stop:
                _print_pieces(conversation.ask(question, lambda: stop.signal is not None), console)
        except ValueError as error:
            click.echo(f"{error}; ask something else", err=True)
            continue
        is_stopped, is_answered = stop.signal is not None, conversation.dialogue != before
        if is_stopped and is_answered:
            click.echo("Stopped; the conversation goes on with this much of the answer.", err=True)
        elif is_stopped:
            click.echo("Stopped before the answer; the conversation goes on without this question.", err=True)
        elif not is_answered:
            click.echo("The model gave no answer; ask in other words.", err=True)


def _read_question() -> str:
    """Return the next question, empty at the end of standard input; UserError if it is not text."""
    line = _read_line("> ")
    if not line.lstrip().startswith(_MULTI_LINE):
        return line.strip()
    question = line.lstrip().removeprefix(_MULTI_LINE)
    while not question.rstrip().endswith(_MULTI_LINE) and (line := _read_line("... ")):
        question += line
    return question.rstrip().removesuffix(_MULTI_LINE).strip()


def _read_line(prompt: str) -> str:
    """Return the next line of standard input with its line feed, empty at its end; UserError if it is not text."""
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            import readline  # noqa: F401 - lets `input` edit lines and recall earlier ones

            return input(prompt) + "\n"
        if sys.stdin.isatty():
            click.echo(prompt, nl=False, err=True)
        return sys.stdin.readline()
    except EOFError:
        return ""
    except KeyboardInterrupt:
        click.echo("", err=True)  # the terminal's line has the prompt on it
        raise
    except UnicodeDecodeError as error:
        raise UserError("not UTF-8 text", "standard input", "check the terminal's encoding") from error


def _print_pieces(pieces: Iterator[str], console: Console) -> None:
    for piece in pieces:
        console.out(printable(piece), end="")
    console.out("")
