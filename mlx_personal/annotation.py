"""Asks the owner about the few selected dialogues, and about no more a day than the owner wants (paper 1, 3.3).

This room keeps the queue and the rules; who prints the question and reads the key is above it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.store import Store, now

Verdict = Literal["accept", "edit", "rewrite", "skip"]


@dataclass(frozen=True)
class AnnotationConfig:
    """`questions_per_day`: never more than this many dialogues are put to the owner in one (UTC) day."""

    questions_per_day: int = 10

    def __post_init__(self) -> None:
        if self.questions_per_day < 0:
            raise ValueError("questions_per_day must be at least 0")


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
            dialogues judged before and their groups.
    """

    def __init__(
        self,
        store: Store,
        config: AnnotationConfig,
        assign: Callable[[Dialogue, Sequence[tuple[Dialogue, int]]], tuple[int, bool]],
    ):
        self._store = store
        self._config = config
        self._assign = assign

    def open_questions(self) -> list[Question]:
        """Every buffered dialogue without a verdict, oldest first, whatever the day's number."""
        judged = {a.dialogue_id for a in self._store.annotations()}
        waiting = [b.dialogue_id for b in self._store.bins() if b.dialogue_id not in judged]
        rows = [row for i in sorted(waiting) if (row := self._store.dialogue(i)) is not None]
        return [Question(row.id, row.dialogue, row.adapter_id) for row in rows]

    def left_today(self) -> int:
        """How many more dialogues may be asked about today. One that is undone and asked again counts once."""
        today = now()[:10]
        asked = {a.dialogue_id for a in self._store.annotations(undone=True) if a.asked_at.startswith(today)}
        return max(0, self._config.questions_per_day - len(asked))

    def questions(self) -> list[Question]:
        """Today's questions: the open ones, as many as are left for today.

        A dialogue that was asked about today and whose verdict was undone comes first and is free.
        """
        today, waiting = now()[:10], self.open_questions()
        asked = {a.dialogue_id for a in self._store.annotations(undone=True) if a.asked_at.startswith(today)}
        again = [q for q in waiting if q.dialogue_id in asked]
        fresh = [q for q in waiting if q.dialogue_id not in asked]
        return again + fresh[: self.left_today()]

    def record(self, dialogue_id: int, verdict: Verdict, answers: Sequence[str] | None = None) -> int:
        """Records the owner's verdict and returns the annotation's id.

        Args:
            dialogue_id: a dialogue that was selected at some time.
            verdict: `accept` keeps the answers; `edit` and `rewrite` put `answers` in their place; `skip` asks no more.
            answers: the preferred answer for every assistant turn, in order.
        """
        if verdict not in get_args(Verdict):
            raise UserError(f"{verdict!r} is no verdict", hint="use accept, edit, rewrite or skip")
        row = self._store.dialogue(dialogue_id)
        if row is None:
            raise UserError(f"there is no dialogue {dialogue_id}", hint="`mlx-personal review --json` lists open ones")
        preferred = None if verdict == "skip" else self._preferred(row.dialogue, verdict, answers, dialogue_id)
        # Those taken back count too, so that a dialogue keeps its group, and its side of the split, for ever.
        history = self._store.annotations(undone=True)
        earlier = next((a for a in history if a.dialogue_id == dialogue_id), None)
        if earlier is not None:
            group, held_out = earlier.near_duplicates, earlier.held_out
        else:
            judged = [(self._store.dialogue(a.dialogue_id), a.near_duplicates) for a in history]
            group, held_out = self._assign(row.dialogue, [(r.dialogue, g) for r, g in judged if r is not None])
        return self._store.add_annotation(dialogue_id, verdict, preferred, group, held_out)

    def undo(self) -> int | None:
        """Takes the last verdict back; the dialogue's id, or None if there was no verdict."""
        return self._store.undo_annotation()

    def _preferred(
        self, dialogue: Dialogue, verdict: Verdict, answers: Sequence[str] | None, dialogue_id: int
    ) -> Dialogue:
        try:
            chosen = dialogue if verdict == "accept" else dialogue.with_turns("assistant", answers or [])
            return chosen.without_thoughts()
        except ValueError as error:
            raise UserError(f"the answers to dialogue {dialogue_id} cannot be kept: {error}") from error
