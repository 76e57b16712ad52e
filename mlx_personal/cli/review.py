"""`review`: annotate the answers of selected dialogues, with one key per verdict or from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.terminal import make_console, print_lines, print_styled
from mlx_personal.errors import StorageError, UserError
from mlx_personal.reporting import counted

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.annotation import AnnotationQueue, Proposal, ProposedQuestion, Question

_KEYS = {"a": "accept", "e": "edit", "r": "rewrite", "s": "skip", "u": "undo", "q": "quit"}
_PROMPT = "[a]ccept [e]dit [r]ewrite [s]kip [u]ndo [q]uit"
# For a dialogue with a proposal.
_TAKE_KEYS = {"p": "take", **_KEYS}
_TAKE_PROMPT = f"take the [p]roposal {_PROMPT}"
# Other letters than those above, so that a habit does not reject a proposed question.
_PROPOSED_KEYS = {"w": "answer", "n": "reject", "u": "undo", "q": "quit"}
_PROPOSED_PROMPT = "[w]rite an answer, [n]o question of mine, [u]ndo, [q]uit"


@click.command()
@click.option(
    "--answers",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='Read verdicts from a JSON Lines file: {"dialogue": 7, "verdict": "rewrite", "answers": ["..."]}; '
    '"take" takes the proposal.',
)
@click.option("--undo", is_flag=True, help="Undo the last verdict, even if no question is left for today.")
@json_option
def review(cli: CommandContext, file: Path | None, undo: bool) -> CommandResult:
    """Annotate the answers of selected dialogues.

    Each answer can be accepted, edited, rewritten or skipped. Dialogues whose verdict follows from an export, such as
    from a thumb, come first, and the proposed verdict is taken with one key. Questions that the model proposed come
    last; you can answer or reject them. With --json, today's questions are listed instead of asked. Verdicts from a
    file count toward the limit `questions_per_day` in config.toml, too.
    """
    if undo:
        with cli.open_profile() as personalizer:
            undone = personalizer.annotations.undo()
        data = {"undone": undone} if undone is None or isinstance(undone, int) else {"undone_proposed": undone.id}
        return CommandResult(data, lambda console: print_lines(console, _undone_text(undone)))
    if file is None and cli.as_json:
        return _list_questions(cli)
    with cli.open_profile() as personalizer:
        if file is not None:
            return _record_file(personalizer.annotations, file)
        try:
            annotated = _ask_questions(personalizer.annotations, make_console())
        except UnicodeDecodeError as error:
            raise UserError("not UTF-8 text", "standard input", "check the terminal's encoding") from error
        open_questions = personalizer.annotations.open_question_count()
        left_today = personalizer.annotations.left_today()
        proposed = personalizer.annotations.open_proposed_count()

    def show(console: Console) -> None:
        print_lines(
            console,
            f"{annotated} annotated; {counted(open_questions, 'question is', 'questions are')} open, {left_today} more "
            "can be asked today.",
        )
        if proposed:
            waiting = counted(proposed, "proposed question is open", "proposed questions are open")
            print_lines(console, f"{waiting}, to be asked after all others.")

    return CommandResult({}, show)


def _list_questions(cli: CommandContext) -> CommandResult:
    with cli.open_profile(write=False) as personalizer:
        questions = personalizer.annotations.questions()
        proposed = personalizer.annotations.proposed_questions()
        left_today = personalizer.annotations.left_today()
    data = [
        {
            "dialogue": q.dialogue_id,
            "adapter": q.adapter_id,
            "messages": q.dialogue.to_messages(),
            "proposal": None if q.proposal is None else _proposal_data(q.proposal),
        }
        for q in questions
    ]
    data_proposed = [{"proposed": q.id, "question": q.question} for q in proposed]
    return CommandResult(
        {"questions": data, "proposed_questions": data_proposed, "left_today": left_today}, lambda console: None
    )


def _proposal_data(proposal: Proposal) -> dict[str, Any]:
    """Return a proposal for JSON; its answers are counted from 1, as on the screen."""
    reasons = [
        {"answer": row.answer + 1, "rating": row.rating, "source": row.source, "evidence": row.evidence}
        for row in proposal.reasons
    ]
    return {
        "verdict": proposal.verdict,
        "context_answers": [answer + 1 for answer in proposal.context_answers],
        "left_out_answers": [answer + 1 for answer in proposal.left_out_answers],
        "reasons": reasons,
    }


def _undone_text(undone: int | ProposedQuestion | None) -> str:
    if undone is None:
        return "Nothing to undo."
    what = f"dialogue {undone}" if isinstance(undone, int) else f"proposed question {undone.id}"
    return f"The verdict on {what} was undone."


def _record_file(queue: AnnotationQueue, file: Path) -> CommandResult:
    """Record the verdicts of a file; invalid lines are skipped."""
    from mlx_personal.importers import Skipped
    from mlx_personal.importers.json_records import read_json_lines

    recorded, invalid = 0, []
    try:
        for line in read_json_lines(file):
            if isinstance(line, Skipped):
                invalid.append(line)
                continue
            value = line.value
            try:
                if isinstance(value, dict) and "proposed" in value:
                    _record_proposed(queue, value)
                else:
                    _record(queue, *_parse_verdict(value))
                recorded += 1
            except StorageError:
                raise  # the line is valid
            except (ValueError, UserError) as error:
                invalid.append(Skipped(line.where, error.what if isinstance(error, UserError) else str(error)))
    except StorageError as error:
        raise _after_recording(error, recorded) from error
    if invalid and not recorded:
        raise UserError(invalid[0].reason, invalid[0].where, "fix the line and run the command again")

    def show(console: Console) -> None:
        for line in invalid:
            print_styled(console, "skipped", "yellow", f" {line.where}: {line.reason}")
        skipped = counted(len(invalid), "invalid line")
        print_lines(console, f"{counted(recorded, 'verdict')} recorded, {skipped} skipped.")

    return CommandResult(
        {"judged": recorded, "bad_lines": [{"where": line.where, "reason": line.reason} for line in invalid]}, show
    )


def _after_recording(error: StorageError, recorded: int) -> StorageError:
    """Return the error with the number of verdicts that were recorded before it.

    They may be given again: a verdict replaces an equal one, and a dialogue counts once toward the daily limit.
    """
    stored = (
        counted(recorded, "verdict was recorded", "verdicts were recorded") if recorded else "no verdict was recorded"
    )
    return StorageError(f"{error.what}, {stored}", error.where, error.hint, remedy=error.remedy)


def _parse_verdict(value: Any) -> tuple[int, Any, list[str] | None]:
    """Return the dialogue, the verdict and the answers of a parsed line; ValueError for an invalid one."""
    if not isinstance(value, dict):
        raise ValueError("a line that is not an object")
    dialogue, verdict, answers = value.get("dialogue"), value.get("verdict"), value.get("answers")
    if type(dialogue) is not int or not 1 <= dialogue < 2**63:  # a bool is an int
        raise ValueError('no "dialogue" number in this line')
    if not isinstance(verdict, str):
        raise ValueError('no "verdict" in this line')
    if answers is not None and (not isinstance(answers, list) or not all(isinstance(a, str) for a in answers)):
        raise ValueError('"answers" is not a list of texts')
    return dialogue, verdict, answers


def _record(queue: AnnotationQueue, dialogue_id: int, action: Any, answers: list[str] | None) -> None:
    """Record a verdict, or that the proposal is taken."""
    if action == "take":
        queue.take_proposal(dialogue_id)
    else:
        queue.record(dialogue_id, action, answers)


def _record_proposed(queue: AnnotationQueue, value: dict[str, Any]) -> None:
    """Record the verdict of a parsed line on a proposed question; ValueError for an invalid one."""
    proposed, verdict, answers = value["proposed"], value.get("verdict"), value.get("answers")
    if type(proposed) is not int or not 1 <= proposed < 2**63:
        raise ValueError('"proposed" is not the number of a question')
    if verdict == "reject":
        queue.reject_proposed(proposed)
    elif verdict == "answer":
        if not isinstance(answers, list) or len(answers) != 1 or not isinstance(answers[0], str):
            raise ValueError('"answers" is not a list of one text')
        queue.answer_proposed(proposed, answers[0])
    else:
        raise ValueError("the verdict on a proposed question is neither answer nor reject")


def _ask_questions(queue: AnnotationQueue, console: Console) -> int:
    """Ask today's questions until none is left or the owner quits; return how many were annotated."""
    verdicts: list[str] = []  # those of this session
    while (questions := queue.questions()) or (proposed := queue.proposed_questions()):
        if not questions:
            if not _ask_proposed(queue, console, proposed, verdicts):
                break
            continue
        question = questions[0]
        _print_question(console, question, len(questions))
        action = _ask_action(*((_PROMPT, _KEYS) if question.proposal is None else (_TAKE_PROMPT, _TAKE_KEYS)))
        if action == "quit":
            break
        if action == "undo":
            _undo(queue, console, verdicts)
            continue
        answers = _ask_answers(question, action) if action in ("edit", "rewrite") else None
        if action in ("edit", "rewrite") and answers is None:
            print_lines(console, "Nothing was changed.")
            continue
        try:
            _record(queue, question.dialogue_id, action, answers)
        except StorageError as error:
            raise _after_recording(error, len(verdicts)) from error
        except UserError as error:  # an answer that no dialogue can hold
            print_lines(console, f"Nothing was changed: {error.what}.")
            continue
        verdicts.append(action)
    return sum(verdict != "reject" for verdict in verdicts)


def _ask_proposed(
    queue: AnnotationQueue, console: Console, proposed: Sequence[ProposedQuestion], verdicts: list[str]
) -> bool:
    """Ask about the first of the proposed questions; return False if the owner quits."""
    question = proposed[0]
    console.rule(f"proposed question {question.id}, {len(proposed)} left today")
    print_styled(console, "user", "bold", f" {question.question}")
    print_styled(console, "proposed question: you have not asked this", "dim")
    print_lines(console, "Might you ask it? Then write the ideal answer.")
    action = _ask_action(_PROPOSED_PROMPT, _PROPOSED_KEYS)
    if action == "undo":
        _undo(queue, console, verdicts)
    if action in ("quit", "undo"):
        return action != "quit"
    try:
        if action == "reject":
            queue.reject_proposed(question.id)
        else:
            queue.answer_proposed(question.id, click.prompt("The ideal answer"))
    except StorageError as error:
        raise _after_recording(error, len(verdicts)) from error
    except UserError as error:  # an answer that no dialogue can hold
        print_lines(console, f"Nothing was changed: {error.what}.")
        return True
    verdicts.append(action)
    return True


def _ask_action(prompt: str, actions: Mapping[str, str]) -> str:
    """Return the action of the key that the owner presses."""
    keys = click.Choice(list(actions), case_sensitive=False)
    return actions[click.prompt(prompt, type=keys, show_choices=False).lower()]


def _undo(queue: AnnotationQueue, console: Console, verdicts: list[str]) -> None:
    """Undo the last verdict, which may be one of an earlier session."""
    undone = queue.undo()
    if undone is not None and verdicts:
        verdicts.pop()
    print_lines(console, _undone_text(undone))


def _print_question(console: Console, question: Question, left: int) -> None:
    console.rule(f"dialogue {question.dialogue_id}, {left} left today")
    numbers = {assistant: number for number, (_, assistant) in enumerate(question.dialogue.turn_indices, start=1)}
    for index, message in enumerate(question.dialogue.messages):
        context = "" if message.weight else " (context only)"
        # The number by which the proposal names it.
        number = f" {numbers[index]}" if question.proposal is not None and index in numbers and len(numbers) > 1 else ""
        print_styled(console, f"{message.role}{number}{context}", "bold", f" {message.content}")
    if question.adapter_id is not None:
        note = f"answered by your adapter {question.adapter_id}; nothing is trained on it unless you approve it"
        print_styled(console, note, "dim")
    if question.proposal is not None:
        _print_proposal(console, question.proposal)
    print_lines(console, "Was the answer good? If not, what is the ideal answer?")


def _print_proposal(console: Console, proposal: Proposal) -> None:
    """Print a proposal, and what it follows from."""
    details = ""
    for answers, what in ((proposal.context_answers, "as context only"), (proposal.left_out_answers, "left out")):
        if answers:
            numbers = ", ".join(str(answer + 1) for answer in answers)
            details += f", answer{'s' if len(answers) > 1 else ''} {numbers} {what}"
    print_styled(console, "proposal", "bold", f" {proposal.verdict}{details}")
    for row in proposal.reasons:
        print_styled(console, f"  answer {row.answer + 1}: {row.rating}, by {row.source}: {row.evidence}", "dim")


def _ask_answers(question: Question, action: str) -> list[str] | None:
    """Return all answers of the dialogue as the owner prefers them; None if none was changed."""
    answers, last = list(question.dialogue.assistant_turns), len(question.dialogue.assistant_turns)
    number = click.prompt("Which answer", type=click.IntRange(1, last), default=last) if last > 1 else 1
    while number:
        old = answers[number - 1]
        new = click.edit(old) if action == "edit" else click.prompt("The ideal answer")
        if new is not None and new.strip():
            answers[number - 1] = new.strip()
        if last == 1:
            break
        number = click.prompt("Another one (0: done)", type=click.IntRange(0, last), default=0)
    unchanged = [a.strip() for a in answers] == [a.strip() for a in question.dialogue.assistant_turns]
    return None if unchanged else answers
