"""The schemas of the six data sets: how their rows become dialogues and topics."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.dialogue import Dialogue, Message
from mlx_personal.errors import quoted

# One row of a data file, by column.
DataRow = Mapping[str, Any]

# Keys that may hold the topic of a dialogue in a chat file.
_TOPIC_KEYS: Final = ("topic", "category", "emotion")
_ROLES: Final = {"patient": "user", "doctor": "assistant", "user": "user", "assistant": "assistant"}
# The label of a speaker, but not a salutation.
_SPEAKER = re.compile(r"(?<!\S)(?<!Dear )(?<!Hello )(?<!Hi )(Patient|Doctor):")


@dataclass(frozen=True)
class LabeledDialogue:
    """A dialogue of a data set.

    Attributes:
        dialogue: The dialogue.
        topic: The data set's label of its topic; None where there is none.
    """

    dialogue: Dialogue
    topic: str | None


@dataclass(frozen=True)
class RowGrouping:
    """The columns by which rows of one dialogue are put together.

    Attributes:
        id_column: Column of the dialogue's id.
        position_column: Column of the row's position within the dialogue.
        first_position: Position of a dialogue's first row.
    """

    id_column: str
    position_column: str
    first_position: int

    def locate(self, row: DataRow) -> tuple[str, int]:
        """Return the id of a row's dialogue and the row's position in it.

        Raises:
            ValueError: If one of the two is missing or of another type.
        """
        dialogue_id, position = _text(row, self.id_column), _text(row, self.position_column)
        if not dialogue_id or not position.isdecimal():
            raise ValueError(f"its {self.id_column} or {self.position_column} is no number or name")
        return dialogue_id, int(position)


@dataclass(frozen=True)
class Schema:
    """A form of a data set.

    Attributes:
        keys: Columns that every row must have.
        read: Returns the dialogue of some rows, given in order; raises a ValueError if they contain none. Without
            `grouping` it is called with a single row.
        grouping: How dialogues are spread over rows; None where each row is a dialogue.
    """

    keys: tuple[str, ...]
    read: Callable[[Sequence[DataRow]], LabeledDialogue]
    grouping: RowGrouping | None = None

    def matches(self, row: object) -> bool:
        """Return whether a row has this schema."""
        return isinstance(row, dict) and all(key in row for key in self.keys)

    def contiguous(self, rows: Mapping[int, DataRow]) -> list[DataRow]:
        """Return a dialogue's rows, given by position, up to the first gap: later turns may answer a missing one."""
        start = self.grouping.first_position if self.grouping else 0
        return [rows[position] for position in itertools.takewhile(rows.__contains__, itertools.count(start))]


def alternating_dialogue(turns: Sequence[tuple[str, str]], system: str = "") -> Dialogue:
    """Return a dialogue of turns whose speakers may not alternate.

    Empty turns are dropped and consecutive turns of one speaker are joined. Assistant turns before the first user turn
    and user turns after the last assistant turn are dropped.

    Args:
        turns: (role, text) of each turn.
        system: System prompt; empty for none.

    Raises:
        ValueError: If no turns remain.
    """
    merged: list[tuple[str, str]] = []
    for role, text in turns:
        if not text.strip():
            continue
        if merged and merged[-1][0] == role:
            merged[-1] = (role, f"{merged[-1][1]}\n{text}")
        else:
            merged.append((role, text))
    if merged and merged[0][0] == "assistant":
        del merged[0]
    if merged and merged[-1][0] == "user":
        del merged[-1]
    if not merged:
        raise ValueError("no question with an answer")
    opening = [("system", system)] if system.strip() else []
    return Dialogue(tuple(Message(role, text.strip()) for role, text in [*opening, *merged]))


def _text(row: DataRow, key: str) -> str:
    """Return a value as text, empty if it is missing; raise a ValueError for another type than text or integer."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, (str, int, type(None))):
        raise ValueError(f"its {key} is not text")
    return "" if value is None else str(value)


def _label(row: DataRow, key: str) -> str | None:
    return _text(row, key).strip().strip("_") or None


def _role(speaker: str) -> str:
    role = _ROLES.get(speaker.strip().lower())
    if role is None:
        raise ValueError(f"the speaker {quoted(speaker)} is not known")
    return role


def _instruction(
    rows: Sequence[DataRow], context_key: str, answer_key: str, topic_key: str | None = None
) -> LabeledDialogue:
    """Read an instruction, followed by its context, and its answer."""
    (row,) = rows
    question = "\n".join(part for part in (_text(row, "instruction"), _text(row, context_key)) if part.strip())
    topic = None if topic_key is None else _label(row, topic_key)
    return LabeledDialogue(alternating_dialogue([("user", question), ("assistant", _text(row, answer_key))]), topic)


def _alpaca(rows: Sequence[DataRow]) -> LabeledDialogue:
    return _instruction(rows, "input", "output")


def _dolly(rows: Sequence[DataRow]) -> LabeledDialogue:
    return _instruction(rows, "context", "response", "category")


def _prosocial(rows: Sequence[DataRow]) -> LabeledDialogue:
    """Read rows of one exchange each; the topic is the safety label of the first one."""
    turns = [turn for row in rows for turn in (("user", _text(row, "context")), ("assistant", _text(row, "response")))]
    return LabeledDialogue(alternating_dialogue(turns), _label(rows[0], "safety_label"))


def _prosocial_log(rows: Sequence[DataRow]) -> LabeledDialogue:
    """Read the same data as converted by DialogStudio, where a row is a dialogue."""
    log = rows[0]["log"]
    if not isinstance(log, list) or not log or not all(isinstance(row, dict) for row in log):
        raise ValueError("its log is not a list of turns")
    turns = [
        turn
        for row in log
        for turn in (("user", _text(row, "user utterance")), ("assistant", _text(row, "system response")))
    ]
    side_information = log[0].get("original user side information")
    topic = _label(side_information, "safety_label") if isinstance(side_information, dict) else None
    return LabeledDialogue(alternating_dialogue(turns), topic)


def _empathetic(rows: Sequence[DataRow]) -> LabeledDialogue:
    """Read rows of one utterance each; the user is the first speaker, whose emotion is the topic."""
    user = _text(rows[0], "speaker_idx")
    turns = [
        ("user" if _text(row, "speaker_idx") == user else "assistant", _text(row, "utterance").replace("_comma_", ","))
        for row in rows
    ]
    return LabeledDialogue(alternating_dialogue(turns), _label(rows[0], "context"))


def _conversations(rows: Sequence[DataRow]) -> LabeledDialogue:
    (row,) = rows
    conversation = row["conversations"]
    if not isinstance(conversation, list) or not all(isinstance(turn, dict) for turn in conversation):
        raise ValueError("its conversations are not a list of turns")
    turns = [(_role(_text(turn, "role")), _text(turn, "content").replace("_comma_", ",")) for turn in conversation]
    return LabeledDialogue(alternating_dialogue(turns), _label(row, "emotion"))


def _openorca(rows: Sequence[DataRow]) -> LabeledDialogue:
    """Read a question and its answer; the topic is the source collection, the prefix of the id (`niv.242684`)."""
    (row,) = rows
    turns = [("user", _text(row, "question")), ("assistant", _text(row, "response"))]
    topic = _text(row, "id").partition(".")[0] or None
    return LabeledDialogue(alternating_dialogue(turns, _text(row, "system_prompt")), topic)


def _meddialog(rows: Sequence[DataRow]) -> LabeledDialogue:
    """Read `src`, which holds all turns in one text: `Patient: ... Doctor: ...`; `tgt`, a summary, is not used."""
    _, *parts = _SPEAKER.split(_text(rows[0], "src"))
    turns = [(_role(speaker), text) for speaker, text in zip(parts[::2], parts[1::2], strict=True)]
    return LabeledDialogue(alternating_dialogue(turns), None)


def _utterances(rows: Sequence[DataRow]) -> LabeledDialogue:
    """Read `utterances`, a list of `patient: ...` and `doctor: ...`."""
    utterances = rows[0]["utterances"]
    if not isinstance(utterances, list) or not all(isinstance(utterance, str) for utterance in utterances):
        raise ValueError("its utterances are not a list of texts")
    turns = [utterance.partition(":") for utterance in utterances]
    return LabeledDialogue(alternating_dialogue([(_role(speaker), text) for speaker, _, text in turns]), None)


def _chatdoctor(rows: Sequence[DataRow]) -> LabeledDialogue:
    """Read questions of the same site as stored by ChatDoctor; their common instruction is dropped."""
    (row,) = rows
    turns = [("user", _text(row, "input")), ("assistant", _text(row, "output"))]
    return LabeledDialogue(alternating_dialogue(turns), None)


def _chat(rows: Sequence[DataRow]) -> LabeledDialogue:
    (row,) = rows
    topics = (row[key] for key in _TOPIC_KEYS if isinstance(row.get(key), str) and row[key].strip())
    return LabeledDialogue(_chat_dialogue(row), next(topics, None))


def _chat_dialogue(row: DataRow) -> Dialogue:
    """Return the dialogue of a row as it is; a wrong order of roles is an error, as in all schemas of the study."""
    if isinstance(row.get("messages"), list):
        return Dialogue.from_messages(row["messages"])
    if isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        return Dialogue.of(row["prompt"], row["completion"])
    raise ValueError("no list of messages, nor a prompt and a completion")


CHATS: Final = (Schema(("messages",), _chat), Schema(("prompt", "completion"), _chat))
ALPACA: Final = (Schema(("instruction", "input", "output"), _alpaca),)
DOLLY: Final = (Schema(("instruction", "context", "response", "category"), _dolly),)
PROSOCIAL: Final = (
    Schema(
        ("context", "response", "safety_label", "dialogue_id", "response_id"),
        _prosocial,
        RowGrouping("dialogue_id", "response_id", 0),
    ),
    Schema(("log",), _prosocial_log),
)
EMPATHETIC: Final = (
    Schema(("conversations", "emotion"), _conversations),
    Schema(
        ("conv_id", "utterance_idx", "context", "speaker_idx", "utterance"),
        _empathetic,
        RowGrouping("conv_id", "utterance_idx", 1),
    ),
)
OPENORCA: Final = (Schema(("id", "system_prompt", "question", "response"), _openorca),)
MEDDIALOG: Final = (
    Schema(("src",), _meddialog),
    Schema(("utterances",), _utterances),
    Schema(("instruction", "input", "output"), _chatdoctor),
)
