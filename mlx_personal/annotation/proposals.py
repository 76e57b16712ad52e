"""The verdict on a dialogue that follows from the ratings of its answers in an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mlx_personal.dialogue import Dialogue, Message
from mlx_personal.profile.imports import InferredVerdictRow


@dataclass(frozen=True)
class Proposal:
    """A verdict that is proposed to the user.

    Attributes:
        verdict: `accept`, or `skip` if all answers are bad.
        context_answers: Indices of the bad answers before the last one that is not bad. They become context: they stay
            in the prompt of later answers, and are not trained on.
        left_out_answers: Indices of the bad answers after it, which are left out of the dialogue with their questions.
        reasons: The verdicts on answers that it follows from, in the order of the answers.
    """

    verdict: Literal["accept", "skip"]
    context_answers: tuple[int, ...]
    left_out_answers: tuple[int, ...]
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
    bad_answers = {row.answer for row in reasons if row.rating == "bad"}
    if len(bad_answers) == count:
        return Proposal("skip", (), (), reasons)
    last = max(answer for answer in range(count) if answer not in bad_answers)
    context = tuple(sorted(answer for answer in bad_answers if answer < last))
    return Proposal("accept", context, tuple(range(last + 1, count)), reasons)


def accepted(dialogue: Dialogue, proposal: Proposal) -> Dialogue:
    """Return what is accepted of a dialogue: without the answers that are left out, and with the others as context.

    Args:
        dialogue: The dialogue.
        proposal: Its proposal, with the verdict `accept`.
    """
    assistants = [assistant for _, assistant in dialogue.turn_indices]
    context = {assistants[answer] for answer in proposal.context_answers}
    end = assistants[len(assistants) - len(proposal.left_out_answers) - 1] + 1
    messages = (
        Message(message.role, message.content, 0) if index in context else message
        for index, message in enumerate(dialogue.messages[:end])
    )
    return Dialogue(tuple(messages))
