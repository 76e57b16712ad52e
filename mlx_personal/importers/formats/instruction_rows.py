"""Rows of a question and an answer: prompt and completion, Alpaca, Dolly, question and answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from mlx_personal.importers.conversation import LABEL, Turn
from mlx_personal.importers.fields import as_list, text_of
from mlx_personal.importers.formats.chat_rows import system_turns, turns_of_messages

# Keys of a question and its answer. Alpaca's `input` is no question beside an `instruction`, so it comes last.
QUESTION_KEYS: Final = ("prompt", "instruction", "question", "query", "input")
ANSWER_KEYS: Final = ("completion", "response", "output", "answer")
# Keys of a text that an instruction is about: Alpaca's and Dolly's.
_CONTEXT_KEYS: Final = ("input", "context")


def instruction_turns(row: Mapping[str, Any]) -> tuple[Turn, ...] | None:
    """Return the turns of a row with a question and an answer, or None for another row.

    A prompt and a completion are texts or lists of messages. With `label`, as in trl's unpaired preference data, the
    answer is rated.

    Args:
        row: The row.
    """
    question_key = next((key for key in QUESTION_KEYS if _is_text_or_messages(row.get(key))), None)
    answer_key = next((key for key in ANSWER_KEYS if _is_text_or_messages(row.get(key))), None)
    if question_key is None or answer_key is None:
        return None
    question = row[question_key]
    if question_key == "instruction":
        context = next((text for key in _CONTEXT_KEYS if (text := text_of(row.get(key))).strip()), "")
        question = f"{question}\n\n{context}" if context else question
    turns = turns_of(question, "user") + turns_of(row[answer_key], "assistant")
    if not turns:
        return ()
    *before, answer = turns
    if isinstance(row.get("label"), bool):
        answer = replace(answer, rating="good" if row["label"] else "bad", rating_source=LABEL)
    return (*system_turns(row), *_history(row), *before, answer)


def turns_of(value: object, role: str) -> tuple[Turn, ...]:
    """Return the turns of a text or of a list of messages.

    Args:
        value: The text or the messages.
        role: Role of a text.
    """
    return (Turn(role, value),) if isinstance(value, str) else tuple(turns_of_messages(as_list(value)))


def _is_text_or_messages(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and bool(value))


def _history(row: Mapping[str, Any]) -> Iterator[Turn]:
    """Yield the turns before the question: pairs of texts under `history`."""
    for pair in as_list(row.get("history")):
        texts = as_list(pair)
        if len(texts) == 2:
            yield Turn("user", text_of(texts[0]))
            yield Turn("assistant", text_of(texts[1]))
