"""Infer from an export which answers the owner liked: from ratings, regenerated answers and the owner's next turn.

Nothing here annotates a dialogue. The verdicts are proposals, each with its source and its evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mlx_personal.dialogue import strip_thoughts
from mlx_personal.importers.conversation import LABEL, REGENERATED, Alternative, Rating, Turn
from mlx_personal.importers.reactions import Reaction, reaction_of
from mlx_personal.importers.reading import ImportedDialogue

# Sources of verdicts beside `REGENERATED` and those of ratings, which their importers name.
THANKS: Final = "thanks"
CORRECTION: Final = "correction"
# Source of a rating whose importer names none.
RATING: Final = "rating"
# Length of the quotation of a turn in the evidence.
_QUOTED_CHARS: Final = 120


@dataclass(frozen=True)
class InferredVerdict:
    """What the owner thought of an answer, by the export.

    Attributes:
        answer: Index of the answer among the dialogue's `assistant_turns`.
        rating: `good` or `bad`.
        source: Where this is from, such as `thumbs`, `thanks`, `correction` or `regenerated`.
        evidence: What it follows from, on one line.
    """

    answer: int
    rating: Rating
    source: str
    evidence: str


@dataclass(frozen=True)
class PreferencePair:
    """An answer that the owner prefers to another one to the same question.

    Attributes:
        answer: Index, among the dialogue's `assistant_turns`, of the answer before which the prompt ends.
        chosen: The preferred answer.
        rejected: The other one.
        source: Where this is from, such as `regenerated` or `correction`.
    """

    answer: int
    chosen: str
    rejected: str
    source: str


@dataclass(frozen=True)
class Inferences:
    """All that is inferred about a dialogue.

    Attributes:
        verdicts: At most one verdict for each answer, in order.
        pairs: The preference pairs, without repetitions.
    """

    verdicts: tuple[InferredVerdict, ...] = ()
    pairs: tuple[PreferencePair, ...] = ()


def infer_verdicts(imported: ImportedDialogue) -> Inferences:
    """Return the verdicts and the preference pairs that an export contains.

    For each answer the first of these decides: the owner's rating in the app or a label; a next turn that corrects it
    or thanks for it; and that the owner continued with it after other answers to the same question. An edited question
    says nothing about an answer, and is only named in the evidence.

    After corrections, the answer that is not corrected again is preferred to those before it.

    Args:
        imported: The dialogue, with the conversation that it comes from.
    """
    exchanges = _exchanges(imported)
    verdicts = [_verdict(number, exchange) for number, exchange in enumerate(exchanges)]
    bad = [verdict is not None and verdict.rating == "bad" for verdict in verdicts]
    pairs = [*_regenerated_pairs(exchanges, bad), *_correction_pairs(exchanges, verdicts)]
    return Inferences(tuple(verdict for verdict in verdicts if verdict is not None), tuple(dict.fromkeys(pairs)))


@dataclass(frozen=True)
class _Exchange:
    """An answer of the dialogue, its question, and what the owner wrote next.

    Attributes:
        answer: The answer without thoughts.
        question: The turns of its question.
        turns: The turns of the answer.
        following: The user turns after it, before the next answer of the conversation.
    """

    answer: str
    question: tuple[Turn, ...]
    turns: tuple[Turn, ...]
    following: tuple[Turn, ...]

    @property
    def reaction(self) -> Reaction | None:
        """How the owner reacts to the answer; None if another person writes next."""
        if not self.following or self.following[0].name != self.question[-1].name:
            return None
        return reaction_of("\n".join(turn.text for turn in self.following), self.answer)

    def other_answers(self) -> Iterator[Alternative]:
        """Yield the other answers to the question that differ, without thoughts."""
        for other in self.turns[-1].alternatives:  # where importers put those to the whole answer
            text = strip_thoughts(other.text)
            if _differ(self.answer, text):
                yield replace(other, text=text)

    def is_followed_by(self, other: _Exchange) -> bool:
        """Return whether the question of another exchange is what the owner wrote next."""
        return bool(self.following) and any(turn is self.following[0] for turn in other.question)


def _exchanges(imported: ImportedDialogue) -> list[_Exchange]:
    """Return the exchanges of the dialogue that have weight 1."""
    dialogue, turns = imported.dialogue, imported.normalized.turns
    following = _following_user_turns(imported.conversation.turns)
    return [
        _Exchange(
            strip_thoughts(answer), turns[user], turns[assistant], tuple(following.get(id(turns[assistant][-1]), ()))
        )
        for answer, (user, assistant) in zip(dialogue.assistant_turns, dialogue.turn_indices, strict=True)
    ]


def _following_user_turns(turns: Sequence[Turn]) -> dict[int, list[Turn]]:
    """Return for each assistant turn, by its `id`, the user turns that follow it before the next answer."""
    followed: dict[int, list[Turn]] = {}
    last: Turn | None = None
    for turn in turns:
        if turn.role == "assistant":
            last = turn
        elif turn.role == "user" and last is not None:
            followed.setdefault(id(last), []).append(turn)
    return followed


def _verdict(number: int, exchange: _Exchange) -> InferredVerdict | None:
    edited = " (to an edited question)" if any(turn.is_edit for turn in exchange.question) else ""
    for turn in reversed(exchange.turns):
        if turn.rating is not None:
            where = "by the label of the training set" if turn.rating_source == LABEL else "in the app"
            evidence = f"rated {turn.rating} {where}{edited}"
            return InferredVerdict(number, turn.rating, turn.rating_source or RATING, evidence)
    reaction = exchange.reaction
    if reaction is not None:
        evidence = f"the next turn: {_quotation(exchange.following[0].text)}{edited}"
        if reaction == "approval":
            return InferredVerdict(number, "good", THANKS, evidence)
        return InferredVerdict(number, "bad", CORRECTION, evidence)
    others = {other.text for other in exchange.other_answers() if other.reason == REGENERATED}
    if others and exchange.following:
        other_answers = "another answer" if len(others) == 1 else f"{len(others)} other answers"
        return InferredVerdict(number, "good", REGENERATED, f"continued with it after {other_answers}{edited}")
    return None


def _regenerated_pairs(exchanges: Sequence[_Exchange], bad: Sequence[bool]) -> Iterator[PreferencePair]:
    """Yield the pairs of an answer and the others to the same question.

    A regenerated answer is preferred only if it is not bad, and the owner continued with it or rated the other one as
    bad; any other alternative is one that the owner rejected.
    """
    for number, exchange in enumerate(exchanges):
        for other in exchange.other_answers():
            is_preferred = bool(exchange.following or other.is_bad) and not bad[number]
            if other.reason != REGENERATED or is_preferred:
                yield PreferencePair(number, exchange.answer, other.text, other.reason)


def _correction_pairs(
    exchanges: Sequence[_Exchange], verdicts: Sequence[InferredVerdict | None]
) -> Iterator[PreferencePair]:
    """Yield the pairs of the first answer that is not corrected again and those before it."""
    first = 0
    for number, (exchange, verdict) in enumerate(zip(exchanges, verdicts, strict=True)):
        if number and not exchanges[number - 1].is_followed_by(exchange):
            first = number
        if verdict is not None and verdict.source == CORRECTION:
            continue
        if verdict is None or verdict.rating == "good":
            for corrected in exchanges[first:number]:
                if _differ(exchange.answer, corrected.answer):
                    yield PreferencePair(first, exchange.answer, corrected.answer, CORRECTION)
        first = number + 1


def _differ(chosen: str, rejected: str) -> bool:
    return bool(rejected.strip()) and chosen.strip() != rejected.strip()


def _quotation(text: str) -> str:
    line = " ".join(text.split())
    return f'"{line if len(line) <= _QUOTED_CHARS else f"{line[:_QUOTED_CHARS]}..."}"'
