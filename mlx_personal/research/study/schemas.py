"""Rows of the six data sets that `importers` does not read, or without their topic, as rows that it reads.

Each function takes the rows of one dialogue in order, and leaves rows of another form as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.dialogue import Dialogue
from mlx_personal.importers.fields import as_list, as_mapping, text_of

# One row of a data file, by column.
Row = Mapping[str, Any]

# Columns that may hold the topic of a dialogue.
_TOPIC_KEYS: Final = ("topic", "category", "emotion")
_ROLES: Final = {"patient": "user", "doctor": "assistant"}
# The label of a speaker, but not a salutation.
_SPEAKER: Final = re.compile(r"(?<!\S)(?<!Dear )(?<!Hello )(?<!Hi )(Patient|Doctor):")


@dataclass(frozen=True)
class LabeledDialogue:
    """A dialogue of a data set.

    Attributes:
        dialogue: The dialogue.
        topic: The data set's label of its topic; None where there is none.
    """

    dialogue: Dialogue
    topic: str | None


def topic_of(row: Row) -> str | None:
    """Return the label of a row's topic, or None."""
    labels = (text_of(row.get(key)).strip().strip("_") for key in _TOPIC_KEYS)
    return next(filter(None, labels), None)


def prosocial(rows: Sequence[Row]) -> Row:
    """Join rows of one exchange each; the topic is the safety label of the first one."""
    if "safety_label" not in rows[0]:
        return rows[0]
    exchanges = ((("user", row.get("context")), ("assistant", row.get("response"))) for row in rows)
    return _messages((turn for exchange in exchanges for turn in exchange), rows[0]["safety_label"])


def empathetic(rows: Sequence[Row]) -> Row:
    """Join rows of one utterance each, or correct a list of turns; the topic is the emotion of the first speaker."""
    first = rows[0]
    if "utterance" in first:
        user = first.get("speaker_idx")
        turns = [("user" if row.get("speaker_idx") == user else "assistant", row.get("utterance")) for row in rows]
        return _messages(((role, _with_commas(text)) for role, text in turns), first.get("context"))
    messages = map(as_mapping, as_list(first.get("conversations")))
    corrected = [{key: _with_commas(value) for key, value in message.items()} for message in messages]
    return {**first, "conversations": corrected} if corrected else first


def openorca(rows: Sequence[Row]) -> Row:
    """Add the topic, which is the collection that a question is from: the prefix of the id (`niv.242684`)."""
    (row,) = rows
    return {"topic": text_of(row.get("id")).partition(".")[0], **row} if "question" in row else row


def meddialog(rows: Sequence[Row]) -> Row:
    """Read turns in one text (`Patient: ... Doctor: ...`), in a list of texts, or in ChatDoctor's rows.

    ChatDoctor's instruction, the same in all rows, is left out.
    """
    (row,) = rows
    if "src" in row:
        _, *parts = _SPEAKER.split(text_of(row["src"]))
        return _messages(zip(map(str.lower, parts[::2]), parts[1::2], strict=True))
    if "utterances" in row:
        turns = [text_of(utterance).partition(":") for utterance in as_list(row["utterances"])]
        return _messages((speaker.strip().lower(), text) for speaker, _, text in turns)
    if {"instruction", "input"} <= row.keys():
        return {"question": row["input"], "answer": row.get("output")}
    return row


def _with_commas(value: Any) -> Any:
    """Return a text with its commas, which this data set writes as `_comma_`."""
    return value.replace("_comma_", ",") if isinstance(value, str) else value


def _messages(turns: Iterable[tuple[str, object]], topic: object = None) -> Row:
    messages = [{"role": _ROLES.get(speaker, speaker), "content": text_of(text).strip()} for speaker, text in turns]
    return {"messages": messages, "topic": topic}
