"""Rows of preference data: a chosen and a rejected answer to the same prompt.

The forms are those of trl (with the prompt beside or inside the answers), of OpenAI's preference fine-tuning, and of
transcripts in one text with `Human:` and `Assistant:`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlx_personal.dialogue import strip_thoughts
from mlx_personal.importers.conversation import Alternative, Turn
from mlx_personal.importers.fields import as_mapping
from mlx_personal.importers.formats.chat_rows import chat_turns, system_turns
from mlx_personal.importers.formats.chat_text import turns_of_text
from mlx_personal.importers.formats.instruction_rows import turns_of

REASON = "preference"


def preference_turns(row: Mapping[str, Any]) -> tuple[Turn, ...] | None:
    """Return the turns of a row with the chosen answer, or None for a row without a chosen and a rejected one.

    The rejected answer is an alternative of the last turn, if both answer the same.

    Args:
        row: The row.
    """
    if _is_answer(row.get("chosen")) and _is_answer(row.get("rejected")):
        prompt = _turns(row.get("prompt") or row.get("question"), "user")
        chosen, rejected = row["chosen"], row["rejected"]
    elif _is_answer(row.get("preferred_output")) and _is_answer(row.get("non_preferred_output")):
        prompt = chat_turns(as_mapping(row.get("input"))) or ()
        chosen, rejected = row["preferred_output"], row["non_preferred_output"]
    else:
        return None
    before, answer = _before_and_answer(prompt, chosen)
    if answer is None:
        return (*system_turns(row), *before)
    before_rejected, rejected_answer = _before_and_answer(prompt, rejected)
    if rejected_answer is not None and _texts(before) == _texts(before_rejected):
        # The same answer after other thoughts is not rejected.
        chosen_text, rejected_text = (strip_thoughts(turn.text).strip() for turn in (answer, rejected_answer))
        if rejected_text not in ("", chosen_text):
            answer = replace(answer, alternatives=(Alternative(rejected_answer.text, REASON),))
    return (*system_turns(row), *before, answer)


def _is_answer(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and bool(value))


def _turns(value: object, role: str) -> tuple[Turn, ...]:
    """Return the turns of a text, which may be a transcript, or of messages."""
    if isinstance(value, str):
        return turns_of_text(value) or turns_of(value, role)
    return turns_of(value, role)


def _before_and_answer(prompt: Sequence[Turn], answer: object) -> tuple[tuple[Turn, ...], Turn | None]:
    """Return the turns before an answer, and its turn; None if the last turn is not the assistant's.

    An answer that has a question of its own is the whole conversation.
    """
    turns = _turns(answer, "assistant")
    if not any(turn.role == "user" for turn in turns):
        # A transcript as a prompt ends with an empty turn of the assistant.
        before = prompt[:-1] if prompt and prompt[-1].role == "assistant" and not prompt[-1].text else prompt
        turns = (*before, *turns)
    if not turns or turns[-1].role != "assistant":
        return turns, None
    return turns[:-1], turns[-1]


def _texts(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    return [(turn.role, turn.text.strip()) for turn in turns]
