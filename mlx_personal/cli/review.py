"""`review`: puts today's questions to the owner, one key a verdict, or takes the verdicts from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape

from mlx_personal.cli.answer import Answer, Cli, answers
from mlx_personal.errors import UserError, from_os_error

if TYPE_CHECKING:
    from mlx_personal.annotation import AnnotationQueue, Question

_KEYS = {"a": "accept", "e": "edit", "r": "rewrite", "s": "skip", "u": "undo", "q": "quit"}


@click.command()
@click.option(
    "--answers",
    "file",
    type=click.Path(path_type=Path),
    help='Take verdicts from JSONL lines: {"dialogue": 7, "verdict": "rewrite", "answers": ["..."]}.',
)
@answers
def review(cli: Cli, file: Path | None) -> Answer:
    """Judge the answers of the selected dialogues: accept, edit, rewrite, skip, undo.

    With --json today's questions are listed and nothing is asked.
    """
    if file is None and cli.as_json:
        with cli.open(write=False) as me:
            questions = me.annotations.questions()
            left = me.annotations.left_today()
        listed = [
            {"dialogue": q.dialogue_id, "adapter": q.adapter_id, "messages": q.dialogue.to_messages()}
            for q in questions
        ]
        return Answer({"questions": listed, "left_today": left}, lambda console: None)
    with cli.open() as me:
        if file is not None:
            return _from_file(me.annotations, file)
        judged = _interactive(me.annotations, Console(highlight=False))
        open_questions, left = len(me.annotations.open_questions()), me.annotations.left_today()

    def show(console: Console) -> None:
        console.print(f"{judged} judged; {open_questions} questions are open, {left} more may be asked today.")

    return Answer({}, show)


def _from_file(queue: AnnotationQueue, file: Path) -> Answer:
    try:
        lines = file.read_text("utf-8").splitlines()
    except OSError as error:
        raise from_os_error(error, file) from error
    except UnicodeDecodeError as error:
        raise UserError("not UTF-8 text", file) from error
    judged, bad = 0, []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            verdict = json.loads(line)
            if not isinstance(verdict, dict):
                raise ValueError("a line that is not an object")
            queue.record(_number(verdict), verdict.get("verdict", ""), _given_answers(verdict))
            judged += 1
        except (ValueError, UserError) as error:
            what = error.what if isinstance(error, UserError) else str(error)
            bad.append({"where": f"{file}:{number}", "reason": what})
    if bad and not judged:
        raise UserError(bad[0]["reason"], bad[0]["where"], "mend the line and run the command again")

    def show(console: Console) -> None:
        for b in bad:
            console.print(f"[yellow]skipped[/] {escape(b['where'])}: {escape(b['reason'])}", soft_wrap=True)
        console.print(f"{judged} verdicts recorded, {len(bad)} bad lines skipped.")

    return Answer({"judged": judged, "bad_lines": bad}, show)


def _number(verdict: dict[str, Any]) -> int:
    if not isinstance(verdict.get("dialogue"), int):
        raise ValueError('no "dialogue" number in this line')
    return int(verdict["dialogue"])


def _given_answers(verdict: dict[str, Any]) -> list[str] | None:
    given = verdict.get("answers")
    if given is not None and (not isinstance(given, list) or not all(isinstance(a, str) for a in given)):
        raise ValueError('"answers" is not a list of texts')
    return given


def _interactive(queue: AnnotationQueue, console: Console) -> int:
    """Asks today's questions until none is left or the owner quits; how many were judged."""
    judged = 0
    while questions := queue.questions():
        question = questions[0]
        _print_question(console, question, len(questions))
        keys = click.Choice(list(_KEYS), case_sensitive=False)
        key = click.prompt("[a]ccept [e]dit [r]ewrite [s]kip [u]ndo [q]uit", type=keys, show_choices=False)
        action = _KEYS[key.lower()]
        if action == "quit":
            break
        if action == "undo":
            undone = queue.undo()
            judged -= undone is not None
            console.print("Nothing to undo." if undone is None else f"The verdict on dialogue {undone} is taken back.")
            continue
        new = _changed_answers(question, action) if action in ("edit", "rewrite") else None
        if action in ("edit", "rewrite") and new is None:
            console.print("Nothing was changed.")
            continue
        queue.record(question.dialogue_id, action, new)  # type: ignore[arg-type]
        judged += 1
    return max(judged, 0)


def _print_question(console: Console, question: Question, left: int) -> None:
    console.rule(f"dialogue {question.dialogue_id}, {left} to go today")
    for message in question.dialogue.messages:
        console.print(f"[bold]{message.role}[/] {escape(message.content)}", soft_wrap=True)
    if question.adapter_id is not None:
        console.print(f"[dim]answered by your adapter {question.adapter_id}; it trains nothing unless you approve[/]")
    console.print("Was the answer fine? If not, what is the ideal answer?")


def _changed_answers(question: Question, action: str) -> list[str] | None:
    """All answers of the dialogue, one of them changed by the owner; None if it was left as it is."""
    turns = list(question.dialogue.assistant_turns)
    number = len(turns)
    if number > 1:
        number = click.prompt("Which answer", type=click.IntRange(1, len(turns)), default=len(turns))
    old = turns[number - 1]
    new = click.edit(old) if action == "edit" else click.prompt("The ideal answer")
    if new is None or not new.strip() or new.strip() == old.strip():
        return None
    turns[number - 1] = new.strip()
    return turns
