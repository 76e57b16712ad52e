"""The verdict on a dialogue that follows from the ratings of its answers in an export."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from mlx_personal.dialogue import Dialogue, Message
from mlx_personal.profile.imports import InferredVerdictRow


@dataclass(frozen=True)
class Proposal:
    """A verdict that is proposed to the user.

    Attributes:
        verdict: `accept`, or `skip` if all answers are bad.
        bad_answers: Indices of the answers that become context: they stay in the prompt of later answers, and are not
            trained on. Those after the last good answer are left out of the dialogue.
        reasons: The verdicts on answers that it follows from, in the order of the answers.
    """

    verdict: Literal["accept", "skip"]
    bad_answers: tuple[int, ...]
    reasons: tuple[InferredVerdictRow, ...]


def proposal_of(dialogue: Dialogue, verdicts: Sequence[InferredVerdictRow]) -> Proposal | None:
    """Return the proposal for a dialogue, or None if nothing is known about its answers.

    Of several verdicts on one answer the latest counts, because a later export knows more.

    Args:
        dialogue: The dialogue.
        verdicts: The verdicts on its answers.
    """
    count = len(dialogue.turn_indices)
    latest = {row.answer: row for row in sorted(verdicts, key=lambda row: row.id) if row.answer < count}
    if not latest:
        return None
    reasons = tuple(latest[answer] for answer in sorted(latest))
    bad_answers = tuple(row.answer for row in reasons if row.rating == "bad")
    return Proposal("skip" if len(bad_answers) == count else "accept", bad_answers, reasons)


def as_context(dialogue: Dialogue, answers: Collection[int]) -> Dialogue:
    """Return a dialogue in which some answers are context, up to its last other answer.

    Args:
        dialogue: The dialogue.
        answers: Indices in its `assistant_turns`, not of all of them.

    Raises:
        ValueError: If no other answer is left.
    """
    context = {assistant for number, (_, assistant) in enumerate(dialogue.turn_indices) if number in answers}
    end = max((assistant for _, assistant in dialogue.turn_indices if assistant not in context), default=-1) + 1
    messages = (
        Message(message.role, message.content, 0) if index in context else message
        for index, message in enumerate(dialogue.messages[:end])
    )
    return Dialogue(tuple(messages))
