"""Long personal histories: what one person said over time, and questions about it.

msc         Multi-Session Chat [Xu22]: the first two sessions of a user are learned, the third one is asked
locomo      LoCoMo [Maharana24]: exchanges of two persons over months are learned, facts from them are asked
prefeval    PrefEval [Zhao25]: preferences are stated, and a question has one answer that follows them
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlx_personal.dialogue import Dialogue, Message
from mlx_personal.errors import UserError, from_os_error

# Of a long history the last exchanges are learned, and of many questions some are asked.
_MAX_LEARNED: Final = 64
_MAX_ASKED: Final = 12
# Exchanges of the same session that stand before a question of `msc`.
_MAX_CONTEXT: Final = 2
# Preferences of one user of `prefeval`, whose records are of different people.
_PREFERENCES_PER_USER: Final = 10
_ACKNOWLEDGMENT: Final = "I will keep that in mind."
# LoCoMo's questions whose answer is not in the history.
_ADVERSARIAL: Final = 5


@dataclass(frozen=True)
class History:
    """The history of one user.

    Attributes:
        user: Name of the user.
        learned: What was said before, one exchange each.
        asked: Questions with the answers of the data set.
        options: For each question all answers to choose from, of which the first is the right one; empty for none.
    """

    user: str
    learned: tuple[Dialogue, ...]
    asked: tuple[Dialogue, ...]
    options: tuple[tuple[str, ...], ...] = ()


def read_histories(name: str, path: Path, max_users: int) -> list[History]:
    """Read the histories of a file in the form of its data set.

    Args:
        name: A name in `HISTORIES`.
        path: The file.
        max_users: Largest number of users, the first ones of the file.

    Raises:
        UserError: If the file cannot be read or has another form, or no user has both a history and a question.
    """
    try:
        text = path.read_text(encoding="utf-8")
        users = HISTORIES[name](text)
        histories = list(itertools.islice((user for user in users if user.learned and user.asked), max_users))
    except OSError as error:
        raise from_os_error(error, path) from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        what = f"is not {name} in the form of its authors ({type(error).__name__}: {error})"
        raise UserError(what, path, "name the file of the data set") from error
    if not histories:
        raise UserError(f"no user of {name} has both a history and a question", path, "name another file")
    return histories


def _read_msc(text: str) -> Iterator[History]:
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    for user, of_user in itertools.groupby(rows, key=lambda row: row["user"]):
        sessions = {row["session"]: _exchanges(row["messages"]) for row in of_user}
        learned = [*sessions.get(1, []), *sessions.get(2, [])]
        asked = [_after(sessions[3], i) for i in range(len(sessions.get(3, [])))]
        yield History(str(user), tuple(learned[-_MAX_LEARNED:]), tuple(asked[:_MAX_ASKED]))


def _read_locomo(text: str) -> Iterator[History]:
    for sample in json.loads(text):
        conversation = sample["conversation"]
        user: str = conversation["speaker_a"]
        said: list[tuple[list[str], Dialogue]] = []
        for number in itertools.count(1):
            if f"session_{number}" not in conversation:
                break
            date = conversation[f"session_{number}_date_time"]
            said += _dated_exchanges(conversation[f"session_{number}"], user, date)
        learned = said[-_MAX_LEARNED:]
        known = {turn_id for ids, _ in learned for turn_id in ids}
        asked = [
            Dialogue.of(question["question"], str(question["answer"]))
            for question in sample["qa"]
            if question["category"] != _ADVERSARIAL and question["evidence"] and known.issuperset(question["evidence"])
        ]
        yield History(sample["sample_id"], tuple(d for _, d in learned), tuple(asked[:_MAX_ASKED]))


def _read_prefeval(text: str) -> Iterator[History]:
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    for number, start in enumerate(range(0, len(rows), _PREFERENCES_PER_USER)):
        of_user = rows[start : start + _PREFERENCES_PER_USER]
        options = [tuple(row["classification_task_options"]) for row in of_user]
        yield History(
            f"preferences {number}",
            tuple(Dialogue.of(row["preference"], _ACKNOWLEDGMENT) for row in of_user),
            tuple(Dialogue.of(row["question"], own[0]) for row, own in zip(of_user, options, strict=True)),
            tuple(options),
        )


def _exchanges(messages: Sequence[Mapping[str, str]]) -> list[Dialogue]:
    """Return each pair of a user's and an assistant's message."""
    pairs = zip(messages[::2], messages[1::2], strict=False)
    return [Dialogue.of(question["content"], answer["content"]) for question, answer in pairs]


def _after(exchanges: Sequence[Dialogue], index: int) -> Dialogue:
    """Return an exchange after those before it in its session, which are context."""
    before = [message for exchange in exchanges[max(0, index - _MAX_CONTEXT) : index] for message in exchange.messages]
    context = [Message(m.role, m.content, 0) if m.role == "assistant" else m for m in before]
    return Dialogue((*context, *exchanges[index].messages))


def _dated_exchanges(turns: Sequence[Mapping[str, Any]], user: str, date: str) -> Iterator[tuple[list[str], Dialogue]]:
    """Yield the exchanges of a session with the ids of their turns; the user's turns begin with the date."""
    speeches = [
        (speaker, list(of_speaker)) for speaker, of_speaker in itertools.groupby(turns, key=lambda t: t["speaker"])
    ]
    first = next((i for i, (speaker, _) in enumerate(speeches) if speaker == user), len(speeches))
    for (_, asked), (_, answered) in zip(speeches[first::2], speeches[first + 1 :: 2], strict=False):
        question, answer = (" ".join(turn["text"] for turn in of_one) for of_one in (asked, answered))
        yield [turn["dia_id"] for turn in (*asked, *answered)], Dialogue.of(f"[{date}] {question}", answer)


HISTORIES: Final[Mapping[str, Callable[[str], Iterator[History]]]] = {
    "msc": _read_msc,
    "locomo": _read_locomo,
    "prefeval": _read_prefeval,
}
