"""`buffer`: show the selected dialogues and why they were selected."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from mlx_personal.cli.context import ID, CommandContext
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.terminal import print_lines, print_styled, printable
from mlx_personal.errors import Action, UserError

if TYPE_CHECKING:
    from rich.console import Console

# Terminal columns of a line of `buffer list` that the scores take, and the fewest that the text gets.
_SCORE_COLUMNS, _MIN_TEXT_COLUMNS = 58, 20

# What is shown after a verdict of each origin.
_ORIGINS = {"owner": "", "proposal": ", as proposed", "inferred": ", inferred from an import without asking"}


@click.group()
def buffer() -> None:
    """Show the selected dialogues and why they were selected."""


@buffer.command("list")
@json_option
def list_(cli: CommandContext) -> CommandResult:
    """List the bins with their scores."""
    from mlx_personal.config import Config
    from mlx_personal.personalizer.stored_buffer import stored_buffer

    with cli.open_store() as store:
        buffer = stored_buffer(store, Config.read(store.folder / "config.toml"))
        data = [
            {
                "slot": bin_.slot,
                "dialogue": bin_.dialogue_id,
                "domain": bin_.domain,
                "eoe": bin_.eoe,
                "dss": bin_.dss,
                "idd": float(idd),
                "text": bin_.text,
            }
            for bin_, idd in zip(buffer.bins, buffer.fresh_idd(), strict=True)
        ]

    def show(console: Console) -> None:
        from rich.table import Table

        if not data:
            print_lines(console, f"The buffer is empty; fill it with {cli.command('import', 'FILE')}")
            return
        table = Table("bin", "dialogue", "domain", "EOE", "DSS", "IDD", "text")
        text_columns = max(console.width - _SCORE_COLUMNS, _MIN_TEXT_COLUMNS)
        for row in data:
            text = printable(" ".join(str(row["text"]).split())[:text_columns])
            scores = (f"{row['eoe']:.3f}", f"{row['dss']:.4f}", f"{row['idd']:.3f}")
            table.add_row(str(row["slot"]), str(row["dialogue"]), printable(str(row["domain"])), *scores, text)
        console.print(table)

    return CommandResult(data, show)


@buffer.command("show")
@click.argument("dialogue_id", type=ID)
@json_option
def show_(cli: CommandContext, dialogue_id: int) -> CommandResult:
    """Print a dialogue, and your annotation of it if there is one."""
    with cli.open_store() as store:
        record = store.dialogue(dialogue_id)
        if record is None:
            hint = f"{cli.command('buffer', 'list')} lists the selected ones"
            raise UserError(f"there is no dialogue {dialogue_id}", hint=hint)
        annotation = store.annotation_of(dialogue_id)
    messages = record.dialogue.to_messages()
    preferred = None if annotation is None or annotation.preferred is None else annotation.preferred.to_messages()
    data = {
        "dialogue": record.id,
        "source": record.source,
        "adapter": record.adapter_id,
        "received_at": record.received_at,
        "messages": messages,
        "verdict": None if annotation is None else annotation.verdict,
        "verdict_origin": None if annotation is None else annotation.origin,
        "preferred": preferred,
    }

    def show(console: Console) -> None:
        print_lines(console, f"dialogue {record.id}, from {record.source}, {record.received_at}")
        _print_messages(console, messages)
        if annotation is not None:
            print_lines(console, f"verdict: {annotation.verdict}{_ORIGINS[annotation.origin]}")
        if preferred is not None and preferred != messages:
            _print_messages(console, preferred)

    return CommandResult(data, show)


@buffer.command("why")
@click.argument("dialogue_id", type=ID)
@json_option
def why(cli: CommandContext, dialogue_id: int) -> CommandResult:
    """Explain why a dialogue was selected or rejected."""
    from mlx_personal.profile.proposed_questions import PROPOSED_SOURCE
    from mlx_personal.selection import Decision, explain

    with cli.open_store() as store:
        record, dialogue = store.decision(dialogue_id), store.dialogue(dialogue_id)
    if record is None and dialogue is not None and dialogue.source == PROPOSED_SOURCE:
        raise UserError(f"dialogue {dialogue_id} answers a proposed question; selection has nothing to do with it")
    if record is None:
        raise UserError(f"dialogue {dialogue_id} does not exist or was not scored yet", remedy=Action.RUN_PENDING_STEPS)
    data = dataclasses.asdict(record)
    explanation = explain(Decision.from_row(data))
    return CommandResult(data, lambda console: print_lines(console, explanation))


def _print_messages(console: Console, messages: Iterable[Mapping[str, Any]]) -> None:
    for message in messages:
        context = "" if message.get("weight", 1) else " (context only)"
        print_styled(console, f"{message['role']}{context}", "bold", f" {message['content']}")
