"""`review`: puts today's questions to the owner, one key a verdict, or takes the verdicts from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from mlx_personal.cli.context import Answer, Cli, answers, styled, terminal
from mlx_personal.errors import UserError

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
@click.option("--undo", is_flag=True, help="Take the last verdict back, also when no question is left for today.")
@answers
def review(cli: Cli, file: Path | None, undo: bool) -> Answer:
    """Judge the answers of the selected dialogues: accept, edit, rewrite, skip, undo.

    With --json today's questions are listed and nothing is asked. Verdicts from a file count as answers to questions:
    no more are taken in a day than questions_per_day in config.toml.
    """
    if undo:
        with cli.open() as me:
            undone = me.annotations.undo()
        return Answer({"undone": undone}, lambda console: console.print(_undone_line(undone)))
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
        try:
            judged = _interactive(me.annotations, terminal())
        except UnicodeDecodeError as error:
            raise UserError("not UTF-8 text", "standard input", "check the terminal's encoding") from error
        open_questions, left = len(me.annotations.open_questions()), me.annotations.left_today()

    def show(console: Console) -> None:
        console.print(f"{judged} judged; {open_questions} questions are open, {left} more may be asked today.")

    return Answer({}, show)


def _undone_line(undone: int | None) -> str:
    return "Nothing to undo." if undone is None else f"The verdict on dialogue {undone} is taken back."


def _from_file(queue: AnnotationQueue, file: Path) -> Answer:
    from mlx_personal.dialogue import InvalidLine
    from mlx_personal.dialogue.readers import read_json_lines

    judged, bad = 0, []
    for line in read_json_lines(file):
        if isinstance(line, InvalidLine):
            bad.append(line)
            continue
        where, verdict = line
        try:
            queue.record(*_verdict(verdict))
            judged += 1
        except (ValueError, UserError) as error:
            bad.append(InvalidLine(where, error.what if isinstance(error, UserError) else str(error)))
    if bad and not judged:
        raise UserError(bad[0].reason, bad[0].where, "mend the line and run the command again")

    def show(console: Console) -> None:
        for b in bad:
            console.print(styled("skipped", "yellow", f" {b.where}: {b.reason}"), soft_wrap=True)
        console.print(f"{judged} verdicts recorded, {len(bad)} bad lines skipped.")

    return Answer({"judged": judged, "bad_lines": [vars(b) for b in bad]}, show)


def _verdict(line: Any) -> tuple[int, Any, list[str] | None]:
    """(dialogue, verdict, answers) of one parsed line; ValueError says in one line why it holds none."""
    if not isinstance(line, dict):
        raise ValueError("a line that is not an object")
    dialogue, verdict, given = line.get("dialogue"), line.get("verdict"), line.get("answers")
    if type(dialogue) is not int or not 1 <= dialogue < 2**63:  # a bool is an int
        raise ValueError('no "dialogue" number in this line')
    if not isinstance(verdict, str):
        raise ValueError('no "verdict" in this line')
    if given is not None and (not isinstance(given, list) or not all(isinstance(a, str) for a in given)):
        raise ValueError('"answers" is not a list of texts')
    return dialogue, verdict, given


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
            console.print(_undone_line(undone))
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
        console.print(styled(message.role, "bold", f" {message.content}"), soft_wrap=True)
    if question.adapter_id is not None:
        note = f"answered by your adapter {question.adapter_id}; it trains nothing unless you approve"
        console.print(styled(note, "dim"))
    console.print("Was the answer fine? If not, what is the ideal answer?")


def _changed_answers(question: Question, action: str) -> list[str] | None:
    """All answers of the dialogue, as the owner wants them; None if they were left as they are."""
    old = list(question.dialogue.assistant_turns)
    turns, last = list(old), len(old)
    number = click.prompt("Which answer", type=click.IntRange(1, last), default=last) if last > 1 else 1
    while number:
        now = turns[number - 1]
        new = click.edit(now) if action == "edit" else click.prompt("The ideal answer")
        if new is not None and new.strip():
            turns[number - 1] = new.strip()
        if last == 1:
            break
        number = click.prompt("Another one (0: done)", type=click.IntRange(0, last), default=0)
    return None if [t.strip() for t in turns] == [t.strip() for t in old] else turns
