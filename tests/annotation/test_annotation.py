"""The annotation queue: a daily limit, stored verdicts, undo, and a split that never changes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from mlx_personal.annotation import AnnotationConfig, AnnotationQueue, GroupedDialogue, SplitRule, Verdict
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.profile import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "profile")
    yield store
    store.close()


def select(store: Store, slot: int, dialogue_id: int, replaced_id: int | None = None) -> None:
    action = "stored" if replaced_id is None else "replaced"
    store.add_decision(dialogue_id, action, "other", (0.5, 0.0, 1.0), slot, replaced_id, {"reason": "a test"})
    store.put_bin(slot, dialogue_id, np.ones(2, np.float32), 0.5, 1.0)


def new_group(dialogue: Dialogue, earlier: Sequence[GroupedDialogue]) -> tuple[int, bool]:
    return len(earlier), False


def make_queue(
    store: Store, dialogues: list[Dialogue], questions_per_day: int = 10, assign_split: SplitRule = new_group
) -> AnnotationQueue:
    store.add_dialogues(dialogues, "file")
    for slot in range(len(dialogues)):
        select(store, slot, slot + 1)
    return AnnotationQueue(store, AnnotationConfig(questions_per_day), assign_split)


def numbered(count: int) -> list[Dialogue]:
    return [Dialogue.of(f"question {i}", f"answer {i}") for i in range(count)]


def test_the_daily_limit_of_questions(store: Store) -> None:
    annotations = make_queue(store, numbered(5), questions_per_day=2)
    assert [q.dialogue_id for q in annotations.questions()] == [1, 2]
    annotations.record(1, "accept")
    annotations.record(2, "skip")
    assert annotations.questions() == []
    assert annotations.left_today() == 0
    assert len(annotations.open_questions()) == 3


def test_the_next_day_brings_new_questions(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations = make_queue(store, numbered(3), questions_per_day=1)
    annotations.record(1, "accept")
    monkeypatch.setattr("mlx_personal.annotation.queue.utc_now", lambda: "2999-01-01T00:00:00+00:00")
    assert [q.dialogue_id for q in annotations.questions()] == [2]


def test_an_undone_verdict_is_asked_again_and_counts_once(store: Store) -> None:
    annotations = make_queue(store, numbered(2), questions_per_day=1)
    annotations.record(1, "accept")
    assert annotations.undo() == 1
    assert [q.dialogue_id for q in annotations.questions()] == [1]
    annotations.record(1, "skip")
    assert annotations.questions() == []
    assert annotations.undo() == 1
    assert annotations.undo() is None


def test_verdicts_store_the_preferred_answers(store: Store) -> None:
    annotations = make_queue(store, numbered(4))
    annotations.record(1, "accept")
    annotations.record(2, "rewrite", ["better"])
    annotations.record(3, "edit", ["answer 2!"])
    annotations.record(4, "skip")
    kept = {a.dialogue_id: a.preferred and a.preferred.answer for a in store.annotations()}
    assert kept == {1: "answer 0", 2: "better", 3: "answer 2!", 4: None}


def test_a_replaced_bin_keeps_its_answer(store: Store) -> None:
    annotations = make_queue(store, numbered(2))
    annotations.record(1, "accept")
    store.add_dialogues([Dialogue.of("new", "newer")], "file")
    select(store, 0, 3, replaced_id=1)
    assert [a.dialogue_id for a in store.annotations()] == [1]
    assert [q.dialogue_id for q in annotations.open_questions()] == [2, 3]


def test_a_dialogue_keeps_its_side_of_the_split_when_annotated_again(store: Store) -> None:
    groups = iter([(0, True), (1, False)])
    annotations = make_queue(store, numbered(2), assign_split=lambda dialogue, earlier: next(groups))
    annotations.record(1, "accept")
    annotations.undo()
    annotations.record(2, "accept")
    annotations.record(1, "skip")
    annotations.record(1, "accept")
    assert {a.dialogue_id: a.held_out for a in store.annotations()} == {1: True, 2: False}


def test_thoughts_are_removed_from_preferred_answers(store: Store) -> None:
    annotations = make_queue(store, [Dialogue.of("q", "<think>hm</think>yes")])
    annotations.record(1, "accept")
    assert store.annotations()[0].preferred == Dialogue.of("q", "yes")


@pytest.mark.parametrize(
    ("verdict", "answers"),
    [
        ("maybe", None),
        ("\n" * 3000, None),
        ("rewrite", None),
        ("rewrite", ["a", "b"]),
        ("edit", [""]),
        ("rewrite", ["a\0"]),
    ],
)
def test_an_invalid_verdict_is_a_one_line_error_and_changes_nothing(
    store: Store, verdict: str, answers: list[str] | None
) -> None:
    annotations = make_queue(store, numbered(1))
    with pytest.raises(UserError) as caught:
        annotations.record(1, cast(Verdict, verdict), answers)
    assert len(caught.value.what.encode().splitlines()) == 1
    assert len(caught.value.what) < 120
    assert store.annotations() == []


def test_a_verdict_on_an_unknown_dialogue_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="no dialogue 7"):
        make_queue(store, numbered(1)).record(7, "accept")


def test_answers_of_an_adapted_model_are_marked(store: Store) -> None:
    run = store.begin_run("training", "abc", {})
    adapter = store.add_adapter(run, "adapters/0001", "abc")
    store.add_dialogues(numbered(1), "chat", adapter)
    select(store, 0, 1)
    annotations = AnnotationQueue(store, AnnotationConfig(), lambda dialogue, earlier: (0, False))
    assert annotations.questions()[0].adapter_id == adapter


def test_undo_restores_the_verdict_before(store: Store) -> None:
    annotations = make_queue(store, numbered(1))
    annotations.record(1, "rewrite", ["better"])
    annotations.record(1, "accept")
    assert annotations.undo() == 1
    assert [(a.verdict, a.preferred and a.preferred.answer) for a in store.annotations()] == [("rewrite", "better")]
    assert annotations.undo() == 1
    assert store.annotations() == []
    assert annotations.undo() is None


def test_an_undone_verdict_is_asked_again_although_its_bin_was_replaced(store: Store) -> None:
    annotations = make_queue(store, numbered(1))
    annotations.record(1, "accept")
    store.add_dialogues([Dialogue.of("new", "newer")], "file")
    select(store, 0, 2, replaced_id=1)
    annotations.undo()
    assert [q.dialogue_id for q in annotations.questions()] == [1, 2]
    annotations.record(1, "accept")
    assert [q.dialogue_id for q in annotations.questions()] == [2]


def test_only_selected_dialogues_can_be_annotated(store: Store) -> None:
    annotations = make_queue(store, numbered(1))
    store.add_dialogues([Dialogue.of("a", "b"), Dialogue.of("c", "d")], "file")
    store.add_decision(2, "kept-out", "other", (0.5, 0.0, 1.0), None, None, {"reason": "a test"})
    for dialogue_id in (2, 3):
        with pytest.raises(UserError, match=f"dialogue {dialogue_id} was never selected"):
            annotations.record(dialogue_id, "accept")


def test_a_verdict_beyond_the_daily_limit_is_refused(store: Store) -> None:
    annotations = make_queue(store, numbered(2), questions_per_day=1)
    annotations.record(1, "accept")
    with pytest.raises(UserError, match="exceeds the daily limit of 1 annotations"):
        annotations.record(2, "accept")
    annotations.record(1, "skip")
    assert [a.verdict for a in store.annotations()] == ["skip"]


def test_a_day_begins_at_the_users_midnight(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")  # 12 hours ahead of UTC in July
    time.tzset()
    try:
        annotations = make_queue(store, numbered(3), questions_per_day=1)
        at = "2030-07-01T11:59:00+00:00"
        monkeypatch.setattr("mlx_personal.annotation.queue.utc_now", lambda: at)
        monkeypatch.setattr("mlx_personal.profile.store.utc_now", lambda: at)
        annotations.record(1, "accept")
        assert annotations.left_today() == 0
        monkeypatch.setattr("mlx_personal.annotation.queue.utc_now", lambda: "2030-07-01T12:01:00+00:00")
        assert annotations.left_today() == 1
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_skipped_dialogue_joins_no_group_until_it_is_annotated(store: Store) -> None:
    seen: list[list[tuple[str, int, bool]]] = []

    def assign_split(dialogue: Dialogue, earlier: Sequence[GroupedDialogue]) -> tuple[int, bool]:
        seen.append([(other.dialogue.answer, other.group, other.held_out) for other in earlier])
        return len(seen) + 4, True

    annotations = make_queue(store, numbered(2), assign_split=assign_split)
    annotations.record(1, "skip")
    annotations.record(2, "accept")
    annotations.record(2, "skip")
    annotations.record(1, "accept")
    assert seen == [[], [("answer 1", 5, True)]]
    assert {a.dialogue_id: (a.group, a.held_out) for a in store.annotations()} == {1: (6, True), 2: (5, True)}


def test_a_verdict_that_is_rolled_back_leaves_no_trace_in_the_split(store: Store) -> None:
    seen: list[list[int]] = []

    def assign_split(dialogue: Dialogue, earlier: Sequence[GroupedDialogue]) -> tuple[int, bool]:
        seen.append([other.group for other in earlier])
        return len(seen), False

    annotations = make_queue(store, numbered(4), assign_split=assign_split)
    annotations.record(1, "accept")
    with pytest.raises(RuntimeError), store.transaction():
        annotations.record(2, "accept")
        annotations.record(3, "accept")
        raise RuntimeError
    annotations.record(4, "accept")
    annotations.record(2, "accept")
    assert seen == [[], [1], [1, 2], [1], [1, 4]]


@pytest.mark.parametrize("number", [-1, 2**63])
def test_a_daily_limit_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="questions_per_day"):
        AnnotationConfig(number)
