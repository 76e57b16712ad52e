"""Proposals that follow from exports: what they say, in which order they are asked, and what taking them records."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mlx_personal.annotation import (
    AnnotationConfig,
    AnnotationQueue,
    GroupedDialogue,
    InferredMode,
    Proposal,
    proposal_of,
)
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.profile import Store
from mlx_personal.profile.imports import InferredVerdictRow
from mlx_personal.profile.inferred import InferredCounts
from mlx_personal.progress import ProgressEvent
from mlx_personal.storage.database import utc_now
from tests.annotation.test_annotation import new_group, select


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "profile")
    yield store
    store.close()


def exchanges(*answers: str, weights: Sequence[int] = ()) -> Dialogue:
    messages: list[dict[str, object]] = []
    for number, answer in enumerate(answers):
        weight = weights[number] if weights else 1
        messages.append({"role": "user", "content": f"question {number} before {answer}"})
        messages.append({"role": "assistant", "content": answer, "weight": weight})
    return Dialogue.from_messages(messages)


def row(answer: int, rating: str, row_id: int = 0, source: str = "thumbs") -> InferredVerdictRow:
    return InferredVerdictRow(row_id, 1, answer, rating, source, "evidence")


def fill(store: Store, ratings: dict[int, str], count: int = 5, unselected: Sequence[int] = ()) -> None:
    """Store dialogues 1..count of one exchange, all scored, with ratings of some of them."""
    store.add_dialogues([exchanges(f"answer {i}") for i in range(1, count + 1)], "file")
    for dialogue_id in range(1, count + 1):
        if dialogue_id in unselected:
            store.add_decision(dialogue_id, "kept-out", "other", (0.5, 0.0, 1.0), None, None, {"reason": "a test"})
        else:
            select(store, dialogue_id, dialogue_id)
    add_ratings(store, {dialogue_id: [(0, rating)] for dialogue_id, rating in ratings.items()})


def add_ratings(store: Store, ratings: dict[int, list[tuple[int, str]]], source: str = "thumbs") -> None:
    import_id = store.imports.begin(["export"], {})
    for dialogue_id, rated in ratings.items():
        store.imports.add_verdicts(import_id, dialogue_id, [(answer, good, source, "seen") for answer, good in rated])


def make_queue(store: Store, per_day: int = 10, inferred: InferredMode = "propose") -> AnnotationQueue:
    return AnnotationQueue(store, AnnotationConfig(per_day, inferred), new_group)


def asked(queue: AnnotationQueue) -> list[int]:
    return [question.dialogue_id for question in queue.questions()]


def test_only_good_ratings_propose_to_accept() -> None:
    reasons = (row(1, "good"),)
    assert proposal_of(exchanges("a", "b"), reasons) == Proposal("accept", (), (), reasons)


def test_only_bad_answers_propose_to_skip() -> None:
    reasons = (row(0, "bad"), row(1, "bad"))
    assert proposal_of(exchanges("a", "b"), reasons) == Proposal("skip", (), (), reasons)


def test_some_bad_answers_become_context_or_are_left_out() -> None:
    reasons = (row(0, "bad"), row(1, "good"), row(3, "bad"))
    proposal = proposal_of(exchanges("a", "b", "c", "d"), reasons)
    assert proposal == Proposal("accept", (0,), (3,), reasons)


def test_the_latest_of_several_verdicts_on_an_answer_counts() -> None:
    verdicts = [row(0, "good", 7), row(0, "bad", 3, "correction"), row(1, "bad", 5)]
    assert proposal_of(exchanges("a", "b"), verdicts) == Proposal("accept", (), (1,), (verdicts[0], verdicts[2]))


def test_nothing_is_proposed_without_a_verdict_on_an_answer_of_the_dialogue() -> None:
    assert proposal_of(exchanges("a"), []) is None
    assert proposal_of(exchanges("a"), [row(1, "good")]) is None


def test_dialogues_with_a_proposal_come_first_even_outside_of_the_buffer(store: Store) -> None:
    fill(store, {3: "good", 5: "bad"}, unselected=[5])
    questions = make_queue(store).questions()
    assert [question.dialogue_id for question in questions] == [3, 5, 1, 2, 4]
    verdicts = [None if question.proposal is None else question.proposal.verdict for question in questions]
    assert verdicts == ["accept", "skip", None, None, None]


def test_the_daily_limit_counts_proposals(store: Store) -> None:
    fill(store, {3: "good", 4: "good", 5: "good"}, unselected=[4, 5])
    queue = make_queue(store, per_day=2)
    assert asked(queue) == [3, 4]
    queue.take_proposal(3)
    queue.record(4, "skip")
    assert asked(queue) == []
    with pytest.raises(UserError, match="exceeds the daily limit of 2 annotations"):
        queue.take_proposal(5)
    assert queue.open_question_count() == len(queue.open_questions()) == 3


def test_a_dialogue_that_is_not_scored_yet_has_no_proposal(store: Store) -> None:
    fill(store, {1: "good"}, count=1)
    store.add_dialogues([exchanges("later")], "file")
    add_ratings(store, {2: [(0, "good")]})
    queue = make_queue(store)
    assert asked(queue) == [1]
    with pytest.raises(UserError, match="nothing is proposed for dialogue 2"):
        queue.take_proposal(2)
    with pytest.raises(UserError, match="never selected"):
        queue.record(2, "accept")


def test_a_taken_proposal_is_the_owners_verdict(store: Store) -> None:
    fill(store, {2: "good", 3: "bad"}, unselected=[2])
    queue = make_queue(store)
    queue.take_proposal(2)
    queue.take_proposal(3)
    accepted, skipped = store.annotations()
    assert (accepted.dialogue_id, accepted.verdict, accepted.origin) == (2, "accept", "proposal")
    assert accepted.preferred == exchanges("answer 2")
    assert (skipped.dialogue_id, skipped.verdict, skipped.preferred, skipped.origin) == (3, "skip", None, "proposal")
    assert store.inferred.counts() == InferredCounts(proposals=0, taken=2, annotated=0, held_out=0, skipped=0, pairs=0)
    assert asked(queue) == [1, 4, 5]


def test_bad_answers_stay_in_the_prompt_and_are_no_target(store: Store) -> None:
    store.add_dialogues([exchanges("<think>hm</think>good", "bad", "fine", "worse")], "file")
    select(store, 0, 1)
    add_ratings(store, {1: [(0, "good"), (1, "bad"), (3, "bad")]})
    make_queue(store).take_proposal(1)
    (annotation,) = store.annotations()
    preferred = annotation.preferred
    assert preferred is not None
    assert preferred.assistant_turns == ("good", "fine")
    assert [message.content for message in preferred.messages if message.role == "assistant"] == ["good", "bad", "fine"]
    assert [message["content"] for message in preferred.exchanges()[1][0]][-2:] == ["bad", "question 2 before fine"]


def test_answers_that_are_context_already_are_not_counted(store: Store) -> None:
    store.add_dialogues([exchanges("old", "bad", "fine", weights=(0, 1, 1))], "file")
    select(store, 0, 1)
    add_ratings(store, {1: [(0, "bad")]})
    make_queue(store).take_proposal(1)
    preferred = store.annotations()[0].preferred
    assert preferred is not None and [message.weight for message in preferred.messages] == [1, 0, 1, 0, 1, 1]


def test_the_owner_may_decide_otherwise_and_undo(store: Store) -> None:
    fill(store, {2: "bad"}, unselected=[2])
    queue = make_queue(store)
    queue.record(2, "rewrite", ["better"])
    assert store.annotations()[0].origin == "owner"
    assert queue.undo() == 2
    assert asked(queue)[0] == 2, "it comes first again"
    queue.take_proposal(2)
    assert queue.undo() == 2
    assert store.annotations() == []


def test_a_proposal_that_is_taken_again_counts_once(store: Store) -> None:
    fill(store, {1: "good"}, count=2)
    queue = make_queue(store, per_day=1)
    queue.take_proposal(1)
    queue.undo()
    assert asked(queue) == [1]
    queue.take_proposal(1)
    assert queue.left_today() == 0


def test_off_proposes_nothing(store: Store) -> None:
    fill(store, {3: "good", 5: "good"}, unselected=[5])
    queue = make_queue(store, inferred="off")
    assert asked(queue) == [1, 2, 3, 4]
    assert queue.open_question_count() == 4
    assert all(question.proposal is None for question in queue.questions())
    assert queue.accept_inferred() == 0
    with pytest.raises(UserError, match="nothing is proposed"):
        queue.take_proposal(3)


def test_propose_accepts_nothing_without_asking(store: Store) -> None:
    fill(store, {3: "good"})
    assert make_queue(store).accept_inferred() == 0
    assert store.annotations() == []


def test_accept_records_all_proposals_beside_the_daily_limit(store: Store) -> None:
    fill(store, {2: "good", 3: "bad", 5: "good"}, unselected=[5])
    queue = make_queue(store, per_day=1, inferred="accept")
    events: list[ProgressEvent] = []
    assert queue.accept_inferred(events.append) == 3
    assert events == [ProgressEvent("accepting", done, 3) for done in (1, 2, 3)]
    recorded = [(a.dialogue_id, a.verdict, a.origin) for a in store.annotations()]
    assert recorded == [(2, "accept", "inferred"), (3, "skip", "inferred"), (5, "accept", "inferred")]
    assert queue.left_today() == 1 and asked(queue) == [1]
    assert queue.accept_inferred() == 0
    assert store.inferred.counts() == InferredCounts(proposals=0, taken=0, annotated=2, held_out=0, skipped=1, pairs=0)


def test_accepting_stays_undone_and_is_proposed_instead(store: Store) -> None:
    fill(store, {2: "good"})
    queue = make_queue(store, inferred="accept")
    queue.accept_inferred()
    assert queue.undo() == 2
    assert queue.accept_inferred() == 0
    assert asked(queue)[0] == 2
    queue.take_proposal(2)
    assert store.annotations()[0].origin == "proposal"


def test_the_verdict_of_a_later_import_replaces_an_accepted_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, {2: "good", 3: "good"})
    queue = make_queue(store, inferred="accept")
    assert queue.accept_inferred() == 2
    queue.record(3, "skip")
    later = (datetime.datetime.fromisoformat(utc_now()) + datetime.timedelta(minutes=5)).isoformat()
    for module in ("mlx_personal.profile.imports", "mlx_personal.profile.store"):
        monkeypatch.setattr(f"{module}.utc_now", lambda: later)
    add_ratings(store, {2: [(0, "bad")], 3: [(0, "bad")]})
    assert queue.accept_inferred() == 1
    assert [(a.dialogue_id, a.verdict, a.origin) for a in store.annotations()] == [
        (3, "skip", "owner"),
        (2, "skip", "inferred"),
    ]
    assert queue.undo() == 2
    assert queue.accept_inferred() == 0


def test_the_owners_verdict_replaces_an_accepted_one(store: Store) -> None:
    fill(store, {2: "good"})
    queue = make_queue(store, inferred="accept")
    queue.accept_inferred()
    queue.record(2, "rewrite", ["better"])
    (annotation,) = store.annotations()
    assert annotation.origin == "owner" and annotation.preferred is not None
    assert annotation.preferred.answer == "better"
    queue.undo()
    assert [a.origin for a in store.annotations()] == ["inferred"]


def test_accepting_leaves_an_answer_of_thoughts_only_to_the_owner(store: Store) -> None:
    store.add_dialogues([exchanges("<think>hm</think>"), exchanges("fine")], "file")
    select(store, 0, 1)
    select(store, 1, 2)
    add_ratings(store, {1: [(0, "good")], 2: [(0, "good")]})
    queue = make_queue(store, inferred="accept")
    assert queue.accept_inferred() == 1
    assert [a.dialogue_id for a in store.annotations()] == [2]
    with pytest.raises(UserError, match="the answers to dialogue 1 are not valid"):
        queue.take_proposal(1)


def test_accepted_dialogues_take_part_in_the_held_out_split(store: Store) -> None:
    def every_second(dialogue: Dialogue, earlier: Sequence[GroupedDialogue]) -> tuple[int, bool]:
        return len(earlier), len(earlier) % 2 == 1

    fill(store, {1: "good", 2: "good", 3: "good", 4: "good"})
    AnnotationQueue(store, AnnotationConfig(10, "accept"), every_second).accept_inferred()
    assert [a.held_out for a in store.annotations()] == [False, True, False, True]
    assert store.inferred.counts().held_out == 2


def test_an_interrupted_acceptance_records_nothing(store: Store) -> None:
    def broken(dialogue: Dialogue, earlier: Sequence[GroupedDialogue]) -> tuple[int, bool]:
        if len(earlier) == 1:
            raise RuntimeError("interrupted")
        return len(earlier), False

    fill(store, {1: "good", 2: "good"})
    with pytest.raises(RuntimeError, match="interrupted"):
        AnnotationQueue(store, AnnotationConfig(10, "accept"), broken).accept_inferred()
    assert store.annotations() == []


@pytest.mark.parametrize("inferred", ["ask", "", 3])
def test_an_unknown_setting_is_refused(inferred: InferredMode) -> None:
    with pytest.raises(ValueError, match="must be one of propose, accept, off"):
        AnnotationConfig(10, inferred)
