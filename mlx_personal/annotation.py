"""Asks the owner about the few selected dialogues, and about no more a day than the owner wants (paper 1, 3.3).

This room keeps the queue and the rules; who prints the question and reads the key is above it.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError, quoted
from mlx_personal.profile import Store, now

Verdict = Literal["accept", "edit", "rewrite", "skip"]

_LISTS: Final = "`mlx-personal review --json` lists the open ones"


# Of a verdict that needs no group yet: nothing of a skipped dialogue is trained on or compared.
NO_GROUP: Final = -1


@dataclass(frozen=True)
class AnnotationConfig:
    """`questions_per_day`: never more than this many dialogues are judged in one day, which begins at the owner's
    midnight. Verdicts from a file count too."""

    questions_per_day: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.questions_per_day <= 1_000_000:
            raise ValueError("questions_per_day must be at least 0 and at most 1,000,000")


@dataclass(frozen=True)
class Question:
    """A dialogue of the buffer whose answers the owner has not judged: were they fine, and if not, what is ideal?

    `adapter_id` is set where an adapted model gave the answers: they train nothing until the owner approves them.
    """

    dialogue_id: int
    dialogue: Dialogue
    adapter_id: int | None


class AnnotationQueue:
    """The questions that are open, and the verdicts that were given.

    Args:
        store: the profile's store.
        config: how many questions a day.
        assign: gives a dialogue's near-duplicate group and whether it is set aside for evaluation, from the
            dialogues judged before, each with its group and whether that is set aside.
    """

    def __init__(
        self,
        store: Store,
        config: AnnotationConfig,
        assign: Callable[[Dialogue, Sequence[tuple[Dialogue, int, bool]]], tuple[int, bool]],
    ):
        self._store = store
        self._config = config
        self._assign = assign

    def open_questions(self) -> list[Question]:
        """Every dialogue that waits for a verdict, oldest first, whatever the day's number: those of the buffer, and
        those whose verdict was taken back, even if their bin has been replaced since."""
        judged = {a.dialogue_id for a in self._store.annotations()}
        asked = {a.dialogue_id for a in self._store.annotations(undone=True)}
        waiting = ({b.dialogue_id for b in self._store.bins()} | asked) - judged
        rows = [row for i in sorted(waiting) if (row := self._store.dialogue(i)) is not None]
        return [Question(row.id, row.dialogue, row.adapter_id) for row in rows]

    def left_today(self) -> int:
        """How many more dialogues may be asked about today. One that is undone and asked again counts once."""
        return max(0, self._config.questions_per_day - len(self._asked_today()))

    def questions(self) -> list[Question]:
        """Today's questions: the open ones, as many as are left for today.

        A dialogue that was asked about today and whose verdict was undone comes first and is free.
        """
        asked, waiting = self._asked_today(), self.open_questions()
        again = [q for q in waiting if q.dialogue_id in asked]
        fresh = [q for q in waiting if q.dialogue_id not in asked]
        return again + fresh[: self.left_today()]

    def record(self, dialogue_id: int, verdict: Verdict, answers: Sequence[str] | None = None) -> int:
        """Records the owner's verdict and returns the annotation's id.

        Args:
            dialogue_id: a dialogue that was selected at some time.
            verdict: `accept` keeps the answers; `edit` and `rewrite` put `answers` in their place; `skip` asks no more.
            answers: the preferred answer for every assistant turn, in order.

        UserError if the dialogue was never selected, the answers cannot be kept, or the day's number is used up.
        """
        if verdict not in get_args(Verdict):
            raise UserError(f"{quoted(verdict)} is no verdict", hint="use accept, edit, rewrite or skip")
        row = self._store.dialogue(dialogue_id)
        if row is None:
            raise UserError(f"there is no dialogue {dialogue_id}", hint=_LISTS)
        decision = self._store.decision(dialogue_id)
        if decision is None or decision["action"] not in ("stored", "replaced"):
            raise UserError(f"dialogue {dialogue_id} was never selected", hint=_LISTS)
        asked, limit = self._asked_today(), self._config.questions_per_day
        if dialogue_id not in asked and len(asked) >= limit:
            raise UserError(
                f"dialogue {dialogue_id} is one more than the {limit} of today",
                hint="go on tomorrow, or raise questions_per_day in config.toml",
            )
        preferred = None if verdict == "skip" else self._preferred(row.dialogue, verdict, answers, dialogue_id)
        group, held_out = self._placed(dialogue_id, row.dialogue, verdict)
        return self._store.add_annotation(dialogue_id, verdict, preferred, group, held_out)

    def undo(self) -> int | None:
        """Takes the last verdict back, so that an earlier one on the same dialogue stands again; the dialogue's id, or
        None if there was no verdict."""
        return self._store.undo_annotation()

    def _asked_today(self) -> set[int]:
        """The dialogues that were judged today, by the owner's clock, also those whose verdict was taken back."""
        today = _day(now())
        return {a.dialogue_id for a in self._store.annotations(undone=True) if _day(a.asked_at) == today}

    def _placed(self, dialogue_id: int, dialogue: Dialogue, verdict: Verdict) -> tuple[int, bool]:
        """The dialogue's group, and whether it is set aside: for ever what its first verdict with an answer gave it."""
        # Those taken back count too, or a dialogue could change sides.
        history = [a for a in self._store.annotations(undone=True) if a.near_duplicates != NO_GROUP]
        sides = {a.dialogue_id: (a.near_duplicates, a.held_out) for a in history}
        if dialogue_id in sides:
            return sides[dialogue_id]
        if verdict == "skip":
            return NO_GROUP, False
        rows = [(self._store.dialogue(i), side) for i, side in sides.items()]
        return self._assign(dialogue, [(row.dialogue, *side) for row, side in rows if row is not None])

    def _preferred(
        self, dialogue: Dialogue, verdict: Verdict, answers: Sequence[str] | None, dialogue_id: int
    ) -> Dialogue:
        try:
            chosen = dialogue if verdict == "accept" else dialogue.with_turns("assistant", answers or [])
            return chosen.without_thoughts()
        except ValueError as error:
            raise UserError(f"the answers to dialogue {dialogue_id} cannot be kept: {error}") from error


def _day(stored: str) -> datetime.date:
    """The owner's date at a time as the store has it, in UTC."""
    return datetime.datetime.fromisoformat(stored).astimezone().date()
