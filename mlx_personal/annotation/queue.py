"""The queue of questions about dialogues; the caller shows them and reads the replies."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from mlx_personal.annotation.config import AnnotationConfig
from mlx_personal.annotation.groups import NO_GROUP, GroupedDialogue, GroupedDialogues, SplitRule
from mlx_personal.annotation.proposals import Proposal, accepted, proposal_of
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import Action, UserError, quoted
from mlx_personal.profile import AnnotationRow, DialogueRow, Store
from mlx_personal.profile.proposed_questions import ProposedQuestionRow
from mlx_personal.progress import Progress, ProgressEvent, ignore_progress
from mlx_personal.storage.database import utc_now

Verdict = Literal["accept", "edit", "rewrite", "skip"]


@dataclass(frozen=True)
class Question:
    """A dialogue without a verdict that was selected, or that has a proposal.

    Attributes:
        dialogue_id: The dialogue's id.
        dialogue: The dialogue itself.
        adapter_id: Adapter that generated the answers, if any; they are trained on only if the user accepts them.
        proposal: The verdict that follows from an export; None if none does, or if proposals are off.
    """

    dialogue_id: int
    dialogue: Dialogue
    adapter_id: int | None
    proposal: Proposal | None = None


@dataclass(frozen=True)
class ProposedQuestion:
    """A question that the base model wrote in the owner's manner, and that the owner has not asked.

    The model does not answer it: accepting such an answer would train the model on its own output.

    Attributes:
        id: Its id.
        question: The question.
    """

    id: int
    question: str


class AnnotationQueue:
    """The open questions and the user's verdicts.

    Args:
        store: The profile's store.
        config: Settings of the annotation.
        assign_split: Assigns an annotated dialogue to a side of the held-out split.
    """

    def __init__(self, store: Store, config: AnnotationConfig, assign_split: SplitRule):
        self._store = store
        self._config = config
        self._assign_split = assign_split
        # Splits of the annotated dialogues by their ids, and the dialogues, up to the last known annotation.
        self._splits: dict[int, tuple[int, bool]] = {}
        self._grouped = GroupedDialogues()
        self._last_known: AnnotationRow | None = None

    def open_questions(self) -> list[Question]:
        """Return all dialogues without a verdict, regardless of the daily limit.

        Those with a proposal come first. The others are the dialogues of the buffer, and those whose verdict was undone
        even if they left the buffer.
        """
        return self._read_questions(self._open_ids(self._store.inferred.counts().proposals))

    def open_question_count(self) -> int:
        """Return the number of dialogues that `open_questions` returns, without reading them."""
        return open_question_count(self._store, self._config)

    def left_today(self) -> int:
        """Return how many more dialogues may be annotated today."""
        return left_today(self._store, self._config)

    def questions(self) -> list[Question]:
        """Return today's questions: the open ones, up to the daily limit.

        A dialogue that was annotated today and whose verdict was undone comes first and does not count again.
        """
        annotated_today, left = _annotated_today(self._store), self.left_today()
        open_ids = self._open_ids(left + len(annotated_today))
        again = [dialogue_id for dialogue_id in open_ids if dialogue_id in annotated_today]
        new = [dialogue_id for dialogue_id in open_ids if dialogue_id not in annotated_today]
        return self._read_questions([*again, *new[:left]])

    def record(self, dialogue_id: int, verdict: Verdict, answers: Sequence[str] | None = None) -> int:
        """Record the user's verdict.

        Args:
            dialogue_id: A dialogue that was selected at some time.
            verdict: `accept` keeps the answers, `edit` and `rewrite` replace them by `answers`, `skip` closes the
                question.
            answers: The preferred answer of every assistant turn, in order.

        Returns:
            The annotation's id.

        Raises:
            UserError: If the dialogue was never selected, the answers are not valid, or the daily limit is reached.
        """
        if verdict not in get_args(Verdict):
            raise UserError(f"{quoted(verdict)} is not a verdict", hint="use accept, edit, rewrite or skip")
        row = self._store.dialogue(dialogue_id)
        if row is None:
            raise UserError(f"there is no dialogue {dialogue_id}", remedy=Action.LIST_QUESTIONS)
        decision = self._store.decision(dialogue_id)
        was_selected = decision is not None and decision.action in ("stored", "replaced")
        if not was_selected and not self._store.inferred.has_proposal(dialogue_id):
            raise UserError(f"dialogue {dialogue_id} was never selected", remedy=Action.LIST_QUESTIONS)
        self._check_limit(dialogue_id, f"dialogue {dialogue_id}")
        preferred = None if verdict == "skip" else _preferred(row.dialogue, verdict, answers, dialogue_id)
        group, held_out = self._split_of(dialogue_id, row.dialogue, verdict)
        return self._store.add_annotation(dialogue_id, verdict, preferred, group, held_out)

    def take_proposal(self, dialogue_id: int) -> int:
        """Record the verdict that is proposed for a dialogue as the user's.

        Args:
            dialogue_id: A dialogue with a proposal.

        Returns:
            The annotation's id.

        Raises:
            UserError: If nothing is proposed for it, the answers are not valid, or the daily limit is reached.
        """
        row = self._store.dialogue(dialogue_id)
        proposal = None if row is None else self._proposal(row)
        if row is None or proposal is None:
            raise UserError(f"nothing is proposed for dialogue {dialogue_id}", remedy=Action.LIST_QUESTIONS)
        self._check_limit(dialogue_id, f"dialogue {dialogue_id}")
        return self._add_proposed(row, proposal, "proposal")

    def accept_inferred(self, on_progress: Progress | None = None) -> int:
        """Record all proposals without asking, if this is the setting; they do not count toward the daily limit.

        Those that the user decided about before are left out, even if the verdict was undone. A verdict that was
        recorded like this is replaced if a later import changes the proposal.

        Args:
            on_progress: Receives an event of stage `accepting` after each dialogue.

        Returns:
            The number of dialogues.
        """
        if self._config.inferred != "accept":
            return 0
        on_progress, count = on_progress or ignore_progress, 0
        with self._store.transaction():
            dialogue_ids = self._store.inferred.acceptable_ids()
            for number, dialogue_id in enumerate(dialogue_ids, 1):
                row = self._store.dialogue(dialogue_id)
                proposal = None if row is None else self._proposal(row)
                if row is not None and proposal is not None:
                    # An answer of thoughts only, which nobody could accept, is left for the user to see.
                    with contextlib.suppress(UserError):
                        self._add_proposed(row, proposal, "inferred")
                        count += 1
                on_progress(ProgressEvent("accepting", number, len(dialogue_ids)))
        return count

    def proposed_questions(self) -> list[ProposedQuestion]:
        """Return the proposed questions that can be answered today, after the questions about the owner's dialogues.

        One whose answer was undone today comes first and does not count again.
        """
        left = max(0, self.left_today() - len(self.questions()))
        annotated_today, rows = _annotated_today(self._store), self._store.proposed.open()
        again = [row for row in rows if row.dialogue_id in annotated_today]
        new = [row for row in rows if row.dialogue_id not in annotated_today]
        return [ProposedQuestion(row.id, row.question) for row in (*again, *new[:left])]

    def open_proposed_count(self) -> int:
        """Return the number of proposed questions without a verdict, regardless of the daily limit."""
        return len(self._store.proposed.open())

    def answer_proposed(self, proposed_id: int, answer: str) -> int:
        """Record the owner's answer to a proposed question, which becomes an annotated dialogue.

        The dialogue does not join the stream, because the owner has not asked its question.

        Args:
            proposed_id: Id of the question.
            answer: The answer that the owner prefers.

        Returns:
            The annotation's id.

        Raises:
            UserError: If there is no such question, the answer is not valid, or the daily limit is reached.
        """
        row = self._proposed(proposed_id)
        try:
            dialogue = Dialogue.of(row.question, answer).without_thoughts()
        except ValueError as error:
            raise UserError(f"the answer to proposed question {proposed_id} is not valid: {error}") from error
        self._check_limit(row.dialogue_id, f"proposed question {proposed_id}")
        with self._store.transaction():
            dialogue_id = row.dialogue_id
            if dialogue_id is None:
                dialogue_id = self._store.proposed.add_dialogue(proposed_id, dialogue)
            group, held_out = self._split_of(dialogue_id, dialogue, "rewrite")
            return self._store.add_annotation(dialogue_id, "rewrite", dialogue, group, held_out)

    def reject_proposed(self, proposed_id: int) -> None:
        """Record that the owner would not ask a proposed question.

        Args:
            proposed_id: Id of the question.

        Raises:
            UserError: If there is no such question, or it was answered.
        """
        row = self._proposed(proposed_id)
        if row.dialogue_id is not None and self._store.annotation_of(row.dialogue_id) is not None:
            raise UserError(f"proposed question {proposed_id} was answered", hint="undo the answer first")
        self._store.proposed.reject(proposed_id)

    def undo(self) -> int | ProposedQuestion | None:
        """Undo the last verdict and restore an earlier one on the same dialogue.

        Returns:
            The dialogue's id, or the proposed question that the verdict was about; None if there was no verdict.
        """
        with self._store.transaction():
            row = self._store.proposed.undo_rejection()
            if row is None:
                dialogue_id = self._store.undo_annotation()
                row = None if dialogue_id is None else self._store.proposed.of_dialogue(dialogue_id)
                if row is None:
                    return dialogue_id
        return ProposedQuestion(row.id, row.question)

    def _open_ids(self, proposals: int) -> list[int]:
        """Return the dialogues without a verdict: up to a number of those with a proposal, then all others."""
        open_ids = self._store.open_question_ids()
        if self._config.inferred == "off":
            return open_ids
        return list(dict.fromkeys([*self._store.inferred.open_ids(proposals), *open_ids]))

    def _read_questions(self, dialogue_ids: Iterable[int]) -> list[Question]:
        rows = [row for i in dialogue_ids if (row := self._store.dialogue(i)) is not None]
        return [Question(row.id, row.dialogue, row.adapter_id, self._proposal(row)) for row in rows]

    def _proposal(self, row: DialogueRow) -> Proposal | None:
        if self._config.inferred == "off" or not self._store.inferred.has_proposal(row.id):
            return None
        return proposal_of(row.dialogue, self._store.imports.verdicts(row.id))

    def _add_proposed(self, row: DialogueRow, proposal: Proposal, origin: str) -> int:
        preferred = None
        if proposal.verdict == "accept":
            preferred = _preferred(accepted(row.dialogue, proposal), "accept", None, row.id)
        group, held_out = self._split_of(row.id, row.dialogue, proposal.verdict)
        return self._store.add_annotation(row.id, proposal.verdict, preferred, group, held_out, origin)

    def _proposed(self, proposed_id: int) -> ProposedQuestionRow:
        row = self._store.proposed.get(proposed_id)
        if row is None or row.is_rejected:
            state = "does not exist" if row is None else "was rejected"
            raise UserError(f"proposed question {proposed_id} {state}", remedy=Action.LIST_QUESTIONS)
        return row

    def _check_limit(self, dialogue_id: int | None, what: str) -> None:
        """Raise UserError if the daily limit allows no verdict on a dialogue."""
        annotated_today, limit = _annotated_today(self._store), self._config.questions_per_day
        if dialogue_id not in annotated_today and len(annotated_today) >= limit:
            raise UserError(
                f"{what} exceeds the daily limit of {limit} annotations",
                hint="continue tomorrow, or raise questions_per_day in config.toml",
            )

    def _split_of(self, dialogue_id: int, dialogue: Dialogue, verdict: Verdict) -> tuple[int, bool]:
        """Return the dialogue's group and whether it is held out: fixed by its first verdict with an answer."""
        self._read_splits()
        if dialogue_id in self._splits:
            return self._splits[dialogue_id]
        if verdict == "skip":
            return NO_GROUP, False
        return self._assign_split(dialogue, self._grouped)

    def _read_splits(self) -> None:
        """Read the splits of the annotations since the last known one."""
        known = self._last_known
        # A transaction that was rolled back may have taken annotations with it.
        if known is not None and self._store.annotation(known.id) != known:
            self._splits, self._grouped, known = {}, GroupedDialogues(), None
        # Undone verdicts count too; otherwise a dialogue could change sides.
        for annotation in self._store.annotations(undone=True, after_id=0 if known is None else known.id):
            known = annotation
            if annotation.group == NO_GROUP or annotation.dialogue_id in self._splits:
                continue
            self._splits[annotation.dialogue_id] = annotation.group, annotation.held_out
            row = self._store.dialogue(annotation.dialogue_id)
            if row is not None:
                self._grouped.append(GroupedDialogue(row.dialogue, annotation.group, annotation.held_out))
        self._last_known = known


def left_today(store: Store, config: AnnotationConfig) -> int:
    """Return how many more dialogues may be annotated today.

    A dialogue that is undone and annotated again counts once.

    Args:
        store: The profile's store.
        config: Settings of the annotation.
    """
    return max(0, config.questions_per_day - len(_annotated_today(store)))


def open_question_count(store: Store, config: AnnotationConfig) -> int:
    """Return the number of dialogues without a verdict that were selected, or that have a proposal.

    Args:
        store: The profile's store.
        config: Settings of the annotation.
    """
    return store.open_question_count(with_proposals=config.inferred != "off")


def _annotated_today(store: Store) -> set[int]:
    """Return the dialogues annotated today in local time, including those whose verdict was undone."""
    now = utc_now()
    # Two days reach before midnight in every time zone.
    since = (datetime.datetime.fromisoformat(now) - datetime.timedelta(days=2)).date().isoformat()
    today = _local_date(now)
    return {dialogue_id for dialogue_id, time in store.annotation_times(since) if _local_date(time) == today}


def _local_date(utc_time: str) -> datetime.date:
    return datetime.datetime.fromisoformat(utc_time).astimezone().date()


def _preferred(dialogue: Dialogue, verdict: Verdict, answers: Sequence[str] | None, dialogue_id: int) -> Dialogue:
    try:
        preferred = dialogue if verdict == "accept" else dialogue.with_turns("assistant", answers or [])
        return preferred.without_thoughts()
    except ValueError as error:
        raise UserError(f"the answers to dialogue {dialogue_id} are not valid: {error}") from error
