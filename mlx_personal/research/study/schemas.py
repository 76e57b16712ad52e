"""What the rows of the six data sets say: each schema as its publishers keep it, read into a dialogue and its topic."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.dialogue import Dialogue, Message
from mlx_personal.dialogue.readers import dialogue_from_json
from mlx_personal.errors import quoted

Row = Mapping[str, Any]
# What a chat file of this project may name a dialogue's topic.
_TOPIC_KEYS: Final = ("topic", "category", "emotion")
_ROLES: Final = {"patient": "user", "doctor": "assistant", "user": "user", "assistant": "assistant"}
# A label, but not a salutation.
_SPEAKER = re.compile(r"(?<!\S)(?<!Dear )(?<!Hello )(?<!Hi )(Patient|Doctor):")


@dataclass(frozen=True)
class Sample:
    """A dialogue, and the data set's own label of what it is about; None where it has none."""

    dialogue: Dialogue
    topic: str | None


@dataclass(frozen=True)
class Group:
    """A dialogue lies over several rows: those of one `id`, whose `place` counts from `first`."""

    id: str
    place: str
    first: int

    def of(self, row: Row) -> tuple[str, int]:
        """The dialogue that a row belongs to, and its place in it; ValueError for a row that does not say."""
        dialogue, place = _text(row, self.id), _text(row, self.place)
        if not dialogue or not place.isdecimal():
            raise ValueError(f"its {self.id} or {self.place} is no number or name")
        return dialogue, int(place)


@dataclass(frozen=True)
class Schema:
    """Rows that have all of `keys`, and how they are read.

    `read` takes the rows of one dialogue, in order, and raises ValueError for those that hold none. Without a `group`
    that is one row.
    """

    keys: tuple[str, ...]
    read: Callable[[Sequence[Row]], Sample]
    group: Group | None = None

    def fits(self, row: Any) -> bool:
        return isinstance(row, dict) and all(key in row for key in self.keys)

    def whole(self, rows: Mapping[int, Row]) -> list[Row]:
        """A dialogue's rows by place, up to the first gap: what follows it answers something that is not there."""
        start = self.group.first if self.group else 0
        return [rows[place] for place in itertools.takewhile(rows.__contains__, itertools.count(start))]


def _in_turn(turns: Sequence[tuple[str, str]], system: str = "") -> Dialogue:
    """A dialogue of (role, text) turns in which some speak twice, say nothing, or begin or end out of turn.

    What one says in a row becomes one turn; the assistant's words before the first question and the questions after
    the last answer are left out. ValueError if that leaves nothing.
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


def _text(row: Row, key: str) -> str:
    """A row's value as text; a missing one is empty. ValueError for a value that is neither text nor a number."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, (str, int, type(None))):
        raise ValueError(f"its {key} is not text")
    return "" if value is None else str(value)


def _label(row: Row, key: str) -> str | None:
    return _text(row, key).strip().strip("_") or None


def _instruction(rows: Sequence[Row], extra: str, answer: str, topic: str | None = None) -> Sample:
    """An instruction with what it is about below it, and its answer."""
    (row,) = rows
    question = "\n".join(part for part in (_text(row, "instruction"), _text(row, extra)) if part.strip())
    label = None if topic is None else _label(row, topic)
    return Sample(_in_turn([("user", question), ("assistant", _text(row, answer))]), label)


def _alpaca(rows: Sequence[Row]) -> Sample:
    return _instruction(rows, "input", "output")


def _dolly(rows: Sequence[Row]) -> Sample:
    return _instruction(rows, "context", "response", "category")


def _prosocial(rows: Sequence[Row]) -> Sample:
    """A row is an exchange; the topic is the safety label of the first, which the dialogue begins with."""
    turns = [turn for row in rows for turn in (("user", _text(row, "context")), ("assistant", _text(row, "response")))]
    return Sample(_in_turn(turns), _label(rows[0], "safety_label"))


def _prosocial_log(rows: Sequence[Row]) -> Sample:
    """The same data as DialogStudio converts it: a row is a dialogue."""
    log = rows[0]["log"]
    if not isinstance(log, list) or not log or not all(isinstance(row, dict) for row in log):
        raise ValueError("its log is not a list of turns")
    turns = [
        turn
        for row in log
        for turn in (("user", _text(row, "user utterance")), ("assistant", _text(row, "system response")))
    ]
    side = log[0].get("original user side information")
    return Sample(_in_turn(turns), _label(side, "safety_label") if isinstance(side, dict) else None)


def _empathetic(rows: Sequence[Row]) -> Sample:
    """A row is an utterance; who speaks first is the user, the one with the feeling, which is the topic."""
    first = _text(rows[0], "speaker_idx")
    turns = [
        ("user" if _text(row, "speaker_idx") == first else "assistant", _text(row, "utterance").replace("_comma_", ","))
        for row in rows
    ]
    return Sample(_in_turn(turns), _label(rows[0], "context"))


def _conversations(rows: Sequence[Row]) -> Sample:
    (row,) = rows
    said = row["conversations"]
    if not isinstance(said, list) or not all(isinstance(turn, dict) for turn in said):
        raise ValueError("its conversations are not a list of turns")
    turns = [(_role(_text(turn, "role")), _text(turn, "content").replace("_comma_", ",")) for turn in said]
    return Sample(_in_turn(turns), _label(row, "emotion"))


def _openorca(rows: Sequence[Row]) -> Sample:
    """The topic is the collection that the question is from, which its id begins with: `niv.242684`."""
    (row,) = rows
    turns = [("user", _text(row, "question")), ("assistant", _text(row, "response"))]
    return Sample(_in_turn(turns, _text(row, "system_prompt")), _text(row, "id").partition(".")[0] or None)


def _meddialog(rows: Sequence[Row]) -> Sample:
    """`src` is all that was said, in one text: `Patient: ... Doctor: ...`; `tgt`, a summary, is not used."""
    _, *parts = _SPEAKER.split(_text(rows[0], "src"))
    return Sample(_in_turn([(_role(who), said) for who, said in zip(parts[::2], parts[1::2], strict=True)]), None)


def _utterances(rows: Sequence[Row]) -> Sample:
    """`utterances` are `patient: ...` and `doctor: ...`, in turn."""
    said = rows[0]["utterances"]
    if not isinstance(said, list) or not all(isinstance(utterance, str) for utterance in said):
        raise ValueError("its utterances are not a list of texts")
    turns = [utterance.partition(":") for utterance in said]
    return Sample(_in_turn([(_role(who), text) for who, _, text in turns]), None)


def _chatdoctor(rows: Sequence[Row]) -> Sample:
    """As ChatDoctor keeps the same site's questions: all below one instruction, which nobody asked."""
    (row,) = rows
    return Sample(_in_turn([("user", _text(row, "input")), ("assistant", _text(row, "output"))]), None)


def _role(who: str) -> str:
    role = _ROLES.get(who.strip().lower())
    if role is None:
        raise ValueError(f"the speaker {quoted(who)} is not known")
    return role


def _chat(rows: Sequence[Row]) -> Sample:
    (row,) = rows
    topics = (row[key] for key in _TOPIC_KEYS if isinstance(row.get(key), str) and row[key].strip())
    return Sample(dialogue_from_json(row), next(topics, None))


CHATS: Final = (Schema(("messages",), _chat), Schema(("prompt", "completion"), _chat))
ALPACA: Final = (Schema(("instruction", "input", "output"), _alpaca),)
DOLLY: Final = (Schema(("instruction", "context", "response", "category"), _dolly),)
PROSOCIAL: Final = (
    Schema(
        ("context", "response", "safety_label", "dialogue_id", "response_id"),
        _prosocial,
        Group("dialogue_id", "response_id", 0),
    ),
    Schema(("log",), _prosocial_log),
)
EMPATHETIC: Final = (
    Schema(("conversations", "emotion"), _conversations),
    Schema(
        ("conv_id", "utterance_idx", "context", "speaker_idx", "utterance"),
        _empathetic,
        Group("conv_id", "utterance_idx", 1),
    ),
)
OPENORCA: Final = (Schema(("id", "system_prompt", "question", "response"), _openorca),)
MEDDIALOG: Final = (
    Schema(("src",), _meddialog),
    Schema(("utterances",), _utterances),
    Schema(("instruction", "input", "output"), _chatdoctor),
)
