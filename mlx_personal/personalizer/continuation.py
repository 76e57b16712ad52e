"""Find the turns of a conversation that are new, given what was imported of it before.

An exchange is known if a stored dialogue of the same conversation, or another one of the same app, has it after the
same questions and answers: apps copy what a branch or a resumed session has in common with another conversation. If the
conversation goes on where an unscored dialogue of it ends, that dialogue is replaced by the longer one, in which what
another dialogue has of the further exchanges is context. In all other cases the new exchanges become a dialogue, in
which the known ones are context: an edited question or another answer, and all that follows it, is new, and nothing
that was scored or judged changes. System turns and results of tools are not compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_personal.dialogue import Dialogue, strip_thoughts
from mlx_personal.profile.imports import StoredPart


@dataclass(frozen=True)
class NewPart:
    """The new exchanges of a conversation, as a dialogue.

    Attributes:
        dialogue: The dialogue; its known exchanges have weight 0.
        position: Index of its first new message.
        continues: Id of the stored dialogue that it replaces; None if it is another one.
    """

    dialogue: Dialogue
    position: int
    continues: int | None


def new_part(dialogue: Dialogue, parts: Sequence[StoredPart]) -> NewPart | None:
    """Return the new exchanges of a conversation; None if all are known.

    Args:
        dialogue: The whole conversation.
        parts: The stored dialogues that may have exchanges of it.
    """
    if not parts:
        return NewPart(dialogue, 0, None)
    ends = _answers(dialogue)
    known = {exchange for part in parts for exchange in _known_exchanges(dialogue, part.dialogue)}
    new = [number for number, end in enumerate(ends) if dialogue.messages[end].weight and number not in known]
    if not new:
        return None
    until_last = Dialogue(dialogue.messages[: ends[new[-1]] + 1])
    weights = {ends[number]: 0 for number in known}
    for part in reversed(parts):
        stored, may_change = _answers(part.dialogue), part.is_same and not part.is_scored
        if may_change and len(stored) <= new[0] and _common_exchanges(dialogue, part.dialogue) == len(stored):
            weights |= {end: part.dialogue.messages[i].weight for end, i in zip(ends, stored, strict=False)}
            return NewPart(_with_weights(until_last, weights), ends[len(stored) - 1] + 1, part.dialogue_id)
    first = ends[new[0] - 1] + 1 if new[0] else 0
    return NewPart(_with_weights(until_last, weights), first, None)


def find_answer(
    dialogue: Dialogue, answer: int, parts: Sequence[StoredPart], instead: str | None = None
) -> tuple[int, int] | None:
    """Return where an answer of a conversation is stored.

    Args:
        dialogue: The whole conversation.
        answer: Index of the answer in its `assistant_turns`.
        parts: The stored dialogues that may have exchanges of it.
        instead: Another answer to the same question, without thoughts, to find instead; None for the answer itself.

    Returns:
        The id of a stored dialogue and the index in its `assistant_turns`; None if none of them has the answer.
    """
    exchange = _answers(dialogue).index(dialogue.turn_indices[answer][1])
    for part in parts:
        if instead is None:
            is_found = exchange in _known_exchanges(dialogue, part.dialogue)
        else:
            is_found = _has_answer(part.dialogue, dialogue, exchange, instead)
        if is_found:
            end = _answers(part.dialogue)[exchange]
            return part.dialogue_id, [assistant for _, assistant in part.dialogue.turn_indices].index(end)
    return None


def _has_answer(stored: Dialogue, dialogue: Dialogue, exchange: int, text: str) -> bool:
    """Return whether a stored dialogue has another answer, with weight 1, to a question of a conversation."""
    if _common_exchanges(dialogue, stored) != exchange or len(_answers(stored)) <= exchange:
        return False
    question, answer = _exchanges(stored)[exchange]
    is_target = bool(stored.messages[_answers(stored)[exchange]].weight)
    return (
        is_target and question == _exchanges(dialogue)[exchange][0] and strip_thoughts(answer).strip() == text.strip()
    )


def _known_exchanges(dialogue: Dialogue, stored: Dialogue) -> list[int]:
    """Return the numbers of the exchanges of a conversation that a stored dialogue has with weight 1."""
    ends = _answers(stored)[: _common_exchanges(dialogue, stored)]
    return [number for number, end in enumerate(ends) if stored.messages[end].weight]


def _common_exchanges(first: Dialogue, second: Dialogue) -> int:
    """Return how many exchanges two dialogues have in common from their beginning."""
    count = 0
    for one, other in zip(_exchanges(first), _exchanges(second), strict=False):
        if one != other:
            break
        count += 1
    return count


def _exchanges(dialogue: Dialogue) -> list[tuple[str, str]]:
    questions = [message.content for message in dialogue.messages if message.role == "user"]
    return list(zip(questions, (dialogue.messages[end].content for end in _answers(dialogue)), strict=True))


def _answers(dialogue: Dialogue) -> list[int]:
    """Return the indices of the assistant turns of any weight."""
    return [index for index, message in enumerate(dialogue.messages) if message.role == "assistant"]


def _with_weights(dialogue: Dialogue, weights: dict[int, int]) -> Dialogue:
    """Return a dialogue with other weights for some messages, by their indices."""
    return Dialogue(
        tuple(
            dataclasses.replace(message, weight=min(message.weight, weights.get(index, 1)))
            for index, message in enumerate(dialogue.messages)
        )
    )
