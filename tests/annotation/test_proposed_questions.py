"""Proposed questions: answered ones are annotated dialogues outside of the stream, and every verdict can be undone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_personal.annotation import AnnotationConfig, AnnotationQueue, ProposedQuestion
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.profile import Store
from tests.annotation.test_annotation import new_group, numbered, select

QUESTIONS = ["How do I prune roses?", "What should I pack for Norway?", "Which paint is right for a fence?"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "profile")
    store.set_model("demo", "fingerprint")
    store.proposed.add(QUESTIONS, store.fingerprint())
    yield store
    store.close()


@pytest.fixture
def queue(store: Store) -> AnnotationQueue:
    return AnnotationQueue(store, AnnotationConfig(10), new_group)


def ids(queue: AnnotationQueue) -> list[int]:
    return [question.id for question in queue.proposed_questions()]


def test_an_answer_makes_an_annotated_dialogue(store: Store, queue: AnnotationQueue) -> None:
    assert queue.proposed_questions()[0] == ProposedQuestion(1, QUESTIONS[0])
    queue.answer_proposed(1, "In March.")
    [annotation] = store.preferred_annotations(held_out=False)
    assert annotation.preferred == Dialogue.of(QUESTIONS[0], "In March.")
    row = store.dialogue(annotation.dialogue_id)
    assert row is not None and (row.source, row.adapter_id) == ("proposed", None)
    assert ids(queue) == [2, 3]


def test_the_stream_and_its_selection_never_see_it(store: Store, queue: AnnotationQueue) -> None:
    store.add_dialogues(numbered(2), "file")
    select(store, 0, 1)
    queue.answer_proposed(1, "In March.")
    store.add_dialogues([Dialogue.of("another question", "answer")], "file")
    assert store.dialogue_count() == 3
    assert [row.dialogue.question for row in store.dialogues()] == ["question 0", "question 1", "another question"]
    assert [row.dialogue.question for row in store.unscored(10)] == ["question 1", "another question"]
    assert store.unscored_count() == 2
    select(store, 1, 4)
    assert store.unscored_count() == 0
    assert [question.dialogue_id for question in queue.open_questions()] == [1, 4]


def test_verdicts_are_undone_in_reverse_order(store: Store, queue: AnnotationQueue) -> None:
    store.add_dialogues(numbered(1), "file")
    select(store, 0, 1)
    queue.reject_proposed(2)
    queue.record(1, "accept")
    queue.answer_proposed(1, "In March.")
    queue.reject_proposed(3)
    assert ids(queue) == []
    assert queue.undo() == ProposedQuestion(3, QUESTIONS[2])
    assert queue.undo() == ProposedQuestion(1, QUESTIONS[0])
    assert ids(queue) == [1, 3] and store.annotation_counts().annotated == 1
    assert queue.undo() == 1
    assert queue.undo() == ProposedQuestion(2, QUESTIONS[1])
    assert queue.undo() is None
    assert ids(queue) == [1, 2, 3]
    assert [question.dialogue_id for question in queue.open_questions()] == [1], "only the owner's own"


def test_rejections_are_undone_in_their_own_order(queue: AnnotationQueue) -> None:
    queue.reject_proposed(2)
    queue.reject_proposed(1)
    assert [queue.undo(), queue.undo()] == [ProposedQuestion(1, QUESTIONS[0]), ProposedQuestion(2, QUESTIONS[1])]


def test_an_undone_answer_is_given_again(store: Store, queue: AnnotationQueue) -> None:
    queue.answer_proposed(1, "In March.")
    queue.undo()
    queue.answer_proposed(1, "In early spring.")
    [annotation] = store.annotations()
    assert annotation.preferred is not None and annotation.preferred.answer == "In early spring."
    assert len({row.dialogue_id for row in store.annotations(undone=True)}) == 1
    queue.answer_proposed(1, "In February.")
    assert store.annotation_counts().annotated == 1
    queue.undo()
    assert store.annotations() == [annotation]


def test_the_daily_limit_is_for_the_owners_dialogues_first(store: Store) -> None:
    queue = AnnotationQueue(store, AnnotationConfig(3), new_group)
    store.add_dialogues(numbered(2), "file")
    for slot in range(2):
        select(store, slot, slot + 1)
    assert ids(queue) == [1]
    queue.answer_proposed(1, "In March.")
    queue.record(1, "skip")
    queue.record(2, "accept")
    assert ids(queue) == [] and queue.left_today() == 0
    with pytest.raises(UserError, match="proposed question 2 exceeds the daily limit of 3 annotations"):
        queue.answer_proposed(2, "A coat.")
    queue.answer_proposed(1, "In April.")
    queue.reject_proposed(2)


@pytest.mark.parametrize("answer", ["", " \n", "<think>only</think>", "a\0b", "\ud800"])
def test_an_invalid_answer_is_refused(queue: AnnotationQueue, store: Store, answer: str) -> None:
    with pytest.raises(UserError, match="the answer to proposed question 1 is not valid"):
        queue.answer_proposed(1, answer)
    assert ids(queue) == [1, 2, 3] and store.annotations() == []


def test_unknown_rejected_and_answered_questions_are_refused(queue: AnnotationQueue) -> None:
    with pytest.raises(UserError, match="proposed question 9 does not exist"):
        queue.answer_proposed(9, "a")
    queue.reject_proposed(2)
    with pytest.raises(UserError, match="proposed question 2 was rejected"):
        queue.answer_proposed(2, "a")
    queue.answer_proposed(1, "In March.")
    with pytest.raises(UserError, match="proposed question 1 was answered; undo the answer first"):
        queue.reject_proposed(1)


def test_a_question_is_stored_once(store: Store) -> None:
    store.proposed.add([QUESTIONS[0], "Another one?"], "fingerprint")
    assert [row.question for row in store.proposed.all()] == [*QUESTIONS, "Another one?"]


def test_the_same_conversation_of_the_owner_still_joins_the_stream(store: Store, queue: AnnotationQueue) -> None:
    queue.answer_proposed(1, "In March.")
    assert store.add_dialogues([Dialogue.of(QUESTIONS[0], "In March.")], "file") == 1
    assert (store.dialogue_count(), store.unscored_count()) == (1, 1)
