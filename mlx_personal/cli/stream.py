"""`import`, `buffer` and `lexicon`: what came in, what was kept and why, and the domains it is measured by."""

from __future__ import annotations

import dataclasses
import itertools
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from mlx_personal.cli.context import ID, Answer, Cli, answers, printable, styled
from mlx_personal.errors import UserError, encodable


@click.command(name="import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@answers
def import_(cli: Cli, files: tuple[Path, ...]) -> Answer:
    """Take conversations from JSONL FILES into the stream, score and select them.

    A line is {"messages": [{"role": ..., "content": ...}, ...]}, a bare list of such messages, or
    {"prompt": ..., "completion": ...}. Bad lines are reported and passed over.
    """
    from mlx_personal.dialogue import InvalidLine, read_dialogues

    bad: list[InvalidLine] = []
    read = new = 0
    with cli.open() as me:
        for file in files:
            found = list(read_dialogues(file))
            good = [d for d in found if not isinstance(d, InvalidLine)]
            bad += [line for line in found if isinstance(line, InvalidLine)]
            read += len(good)
            new += me.store.add_dialogues(good, f"import:{encodable(file.name)}")
        if not read:
            raise UserError(
                f"no dialogue could be read ({bad[0].reason})" if bad else "no dialogue in this file",
                bad[0].where if bad else files[0],
                'each line must be {"messages": [...]}',
            )
        with cli.bar("Scoring") as progress:
            counts = me.score(progress)
        open_questions = len(me.annotations.open_questions())
    data = {
        "read": read,
        "new": new,
        "bad_lines": [{"where": b.where, "reason": b.reason} for b in bad],
        "decisions": counts,
        "open_questions": open_questions,
    }

    def show(console: Console) -> None:
        for line in bad:
            console.print(styled("skipped", "yellow", f" {line.where}: {line.reason}"), soft_wrap=True)
        console.print(f"{read} dialogues read, {new} of them new, {len(bad)} bad lines skipped.")
        console.print(
            f"Buffer: {counts.get('stored', 0)} stored in free bins, {counts.get('replaced', 0)} replaced a bin, "
            f"{counts.get('kept-out', 0)} kept out, {counts.get('duplicate', 0)} near-duplicates refused."
        )
        if open_questions:
            console.print(f"{open_questions} questions are open: mlx-personal review")

    return Answer(data, show)


@click.group()
def buffer() -> None:
    """Look at what was kept, and why."""


@buffer.command("list")
@answers
def buffer_list(cli: Cli) -> Answer:
    """List the bins with their scores."""
    with cli.open(write=False) as me:
        bins, fresh = me.observer.selector().buffer.bins, me.observer.selector().buffer.fresh_idd()
        data = [
            {
                "slot": b.slot,
                "dialogue": b.dialogue_id,
                "domain": b.domain,
                "eoe": b.eoe,
                "dss": b.dss,
                "idd": float(idd),
                "text": b.text,
            }
            for b, idd in zip(bins, fresh, strict=True)
        ]

    def show(console: Console) -> None:
        table = Table("bin", "dialogue", "domain", "EOE", "DSS", "IDD", "text")
        room = max(console.width - 58, 20)  # what the scores leave of a line
        for row in data:
            first = printable(" ".join(str(row["text"]).split())[:room])
            scores = (f"{row['eoe']:.3f}", f"{row['dss']:.4f}", f"{row['idd']:.3f}")
            table.add_row(str(row["slot"]), str(row["dialogue"]), printable(str(row["domain"])), *scores, first)
        console.print(table if data else "The buffer is empty: mlx-personal import FILE...")

    return Answer(data, show)


@buffer.command("show")
@click.argument("dialogue_id", type=ID)
@answers
def buffer_show(cli: Cli, dialogue_id: int) -> Answer:
    """Print a dialogue, and the owner's answers to it if there are any."""
    with cli.open(write=False) as me:
        row = me.store.dialogue(dialogue_id)
        if row is None:
            raise UserError(
                f"there is no dialogue {dialogue_id}", hint="`mlx-personal buffer list` shows the kept ones"
            )
        verdict = next((a for a in me.store.annotations() if a.dialogue_id == dialogue_id), None)
    preferred = None if verdict is None or verdict.preferred is None else verdict.preferred.to_messages()
    data = {
        "dialogue": row.id,
        "source": row.source,
        "adapter": row.adapter_id,
        "received_at": row.received_at,
        "messages": row.dialogue.to_messages(),
        "verdict": None if verdict is None else verdict.verdict,
        "preferred": preferred,
    }

    def show(console: Console) -> None:
        console.print(printable(f"dialogue {row.id}, from {row.source}, {row.received_at}"), soft_wrap=True)
        _print_messages(console, row.dialogue.to_messages())
        if verdict is not None:
            console.print(f"verdict: {verdict.verdict}")
        if preferred is not None and preferred != row.dialogue.to_messages():
            _print_messages(console, preferred)

    return Answer(data, show)


@buffer.command("why")
@click.argument("dialogue_id", type=ID)
@answers
def buffer_why(cli: Cli, dialogue_id: int) -> Answer:
    """Explain why a dialogue was kept, kept out or refused."""
    import json

    from mlx_personal.selection import Decision, explain

    with cli.open(write=False) as me:
        row = me.store.decision(dialogue_id)
    if row is None:
        raise UserError(
            f"nothing was decided about dialogue {dialogue_id}", hint="`mlx-personal run` scores what waits"
        )
    data = {**dict(row), "detail": json.loads(row["detail"])}
    lines = explain(Decision.from_row(data))
    return Answer(data, lambda console: console.print(printable(lines), soft_wrap=True))


def _print_messages(console: Console, messages: list[dict[str, str]]) -> None:
    for message in messages:
        console.print(styled(message["role"], "bold", f" {message['content']}"), soft_wrap=True)


@click.group()
def lexicon() -> None:
    """Look at the domains, and find your own."""


@lexicon.command("list")
@answers
def lexicon_list(cli: Cli) -> Answer:
    """List the domains in force and how many kept dialogues each has."""
    with cli.open(write=False) as me:
        bins = [b.domain for b in me.observer.selector().buffer.bins]
        data = [{"domain": d, "words": len(w), "bins": bins.count(d)} for d, w in me.observer.lexicons().items()]
        data.append({"domain": "other", "words": 0, "bins": bins.count("other")})

    def show(console: Console) -> None:
        table = Table("domain", "words", "bins")
        for row in data:
            table.add_row(*(printable(str(value)) for value in row.values()))
        console.print(table)
        console.print(printable(f"Your own: one text file a domain in {cli.folder / 'lexicons'}"), soft_wrap=True)

    return Answer(data, show)


@lexicon.command("suggest")
@click.option(
    "--domains", type=click.IntRange(1, 50), default=8, show_default=True, help="How many domains to look for."
)
@click.option("--write", is_flag=True, help="Write them to the profile's lexicons folder.")
@answers
def lexicon_suggest(cli: Cli, domains: int, write: bool) -> Answer:
    """Propose domains and words from your own stream, in any language."""
    from mlx_personal.scoring import OTHER, suggest_lexicons
    from mlx_personal.storage.files import atomic_write

    with cli.open(write=write) as me:
        # A file of a name in use would replace what the owner has edited, or a built-in lexicon.
        lexicons = me.observer.lexicons()
        taken = [*lexicons, OTHER]
        found = []
        for s in suggest_lexicons([row.dialogue.text for row in me.store.dialogues()], domains=domains):
            if any(set(s.words) <= lexicon for lexicon in lexicons.values()):
                continue  # written before
            found.append(dataclasses.replace(s, name=_free_name(s.name, taken)))
            taken.append(found[-1].name)
        folder = me.folder / "lexicons"
        if write:
            folder.mkdir(exist_ok=True)
            for s in found:
                header = f"# {s.name}: suggested from {s.dialogues} dialogues of your stream\n"
                atomic_write(folder / f"{s.name}.txt", header + "\n".join(s.words) + "\n")
    data: list[dict[str, Any]] = [{"domain": s.name, "dialogues": s.dialogues, "words": list(s.words)} for s in found]

    def show(console: Console) -> None:
        for row in data:
            rest = f" ({row['dialogues']} dialogues): {', '.join(row['words'][:12])}"
            console.print(styled(row["domain"], "bold", rest), soft_wrap=True)
        if not found:
            console.print("Nothing new: the lexicons in force have all of these words.")
        else:
            console.print(printable(f"Written to {folder}") if write else "Add --write to use them.", soft_wrap=True)

    return Answer(data, show)


def _free_name(name: str, taken: Iterable[str]) -> str:
    """`name`, or the first of name_2, name_3 and so on that no file has; file systems may ignore case and form."""
    known = {unicodedata.normalize("NFC", other).casefold() for other in taken}
    numbered = itertools.chain([name], (f"{name}_{n}" for n in itertools.count(2)))
    return next(n for n in numbered if unicodedata.normalize("NFC", n).casefold() not in known)
