"""The annotation queue: few questions a day, every verdict kept, undo, and a split that never moves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_personal.annotation import AnnotationConfig, AnnotationQueue
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.profile import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    store = Store(tmp_path / "profile")
    yield store
    store.close()


def select(store: Any, slot: Any, dialogue_id: Any, replaced_id: Any = None) -> None:
    action = "stored" if replaced_id is None else "replaced"
    store.add_decision(dialogue_id, action, "other", (0.5, 0.0, 1.0), slot, replaced_id, {"reason": "a test"})
    store.put_bin(slot, dialogue_id, np.ones(2, np.float32), 0.5, 1.0)


def queue(
    store: Any, dialogues: Any, questions_per_day: Any = 10, assign: Any = lambda dialogue, judged: (len(judged), False)
) -> Any:
    store.add_dialogues(dialogues, "file")
    for slot in range(len(dialogues)):
        select(store, slot, slot + 1)
    return AnnotationQueue(store, AnnotationConfig(questions_per_day), assign)


def numbered(count: Any) -> Any:
    return [Dialogue.of(f"question {i}", f"answer {i}") for i in range(count)]


def test_no_more_questions_a_day_than_the_owner_wants(store: Any) -> None:
    annotations = queue(store, numbered(5), questions_per_day=2)
    assert [q.dialogue_id for q in annotations.questions()] == [1, 2]
    annotations.record(1, "accept")
    annotations.record(2, "skip")
    assert annotations.questions() == []
    assert annotations.left_today() == 0
    assert len(annotations.open_questions()) == 3


def test_the_next_day_brings_new_questions(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations = queue(store, numbered(3), questions_per_day=1)
    annotations.record(1, "accept")
    monkeypatch.setattr("mlx_personal.annotation.now", lambda: "2999-01-01T00:00:00+00:00")
    assert [q.dialogue_id for q in annotations.questions()] == [2]


def test_a_verdict_taken_back_is_asked_again_and_counts_once(store: Any) -> None:
    annotations = queue(store, numbered(2), questions_per_day=1)
    annotations.record(1, "accept")
    assert annotations.undo() == 1
    assert [q.dialogue_id for q in annotations.questions()] == [1]
    annotations.record(1, "skip")
    assert annotations.questions() == []
    assert annotations.undo() == 1
    assert annotations.undo() is None


def test_verdicts_keep_what_the_owner_prefers(store: Any) -> None:
    annotations = queue(store, numbered(4))
    annotations.record(1, "accept")
    annotations.record(2, "rewrite", ["better"])
    annotations.record(3, "edit", ["answer 2!"])
    annotations.record(4, "skip")
    kept = {a.dialogue_id: a.preferred and a.preferred.answer for a in store.annotations()}
    assert kept == {1: "answer 0", 2: "better", 3: "answer 2!", 4: None}


def test_a_replaced_bin_keeps_its_answer(store: Any) -> None:
    annotations = queue(store, numbered(2))
    annotations.record(1, "accept")
    store.add_dialogues([Dialogue.of("new", "newer")], "file")
    select(store, 0, 3, replaced_id=1)
    assert [a.dialogue_id for a in store.annotations()] == [1]
    assert [q.dialogue_id for q in annotations.open_questions()] == [2, 3]


def test_a_dialogue_keeps_its_side_of_the_split_when_judged_anew(store: Any) -> None:
    groups = iter([(0, True), (1, False)])
    annotations = queue(store, numbered(2), assign=lambda dialogue, judged: next(groups))
    annotations.record(1, "accept")
    annotations.undo()
    annotations.record(2, "accept")
    annotations.record(1, "skip")
    annotations.record(1, "accept")
    assert {a.dialogue_id: a.held_out for a in store.annotations()} == {1: True, 2: False}


def test_thoughts_are_no_part_of_a_preferred_answer(store: Any) -> None:
    annotations = queue(store, [Dialogue.of("q", "<think>hm</think>yes")])
    annotations.record(1, "accept")
    assert store.annotations()[0].preferred == Dialogue.of("q", "yes")


@pytest.mark.parametrize(
    ("verdict", "given"),
    [
        ("maybe", None),
        ("\n" * 3000, None),
        ("rewrite", None),
        ("rewrite", ["a", "b"]),
        ("edit", [""]),
        ("rewrite", ["a\0"]),
    ],
)
def test_a_verdict_that_cannot_be_kept_is_one_line_and_changes_nothing(
    store: Any, verdict: str, given: list[str] | None
) -> None:
    annotations = queue(store, numbered(1))
    with pytest.raises(UserError) as caught:
        annotations.record(1, verdict, given)
    assert len(caught.value.what.encode().splitlines()) == 1
    assert len(caught.value.what) < 120
    assert store.annotations() == []


def test_a_verdict_on_an_unknown_dialogue_is_refused(store: Any) -> None:
    with pytest.raises(UserError, match="no dialogue 7"):
        queue(store, numbered(1)).record(7, "accept")


def test_answers_of_an_adapted_model_are_marked(store: Any) -> None:
    run = store.begin_run("training", "abc", {})
    adapter = store.add_adapter(run, "adapters/0001", "abc")
    store.add_dialogues(numbered(1), "chat", adapter)
    select(store, 0, 1)
    annotations = AnnotationQueue(store, AnnotationConfig(), lambda dialogue, judged: (0, False))
    assert annotations.questions()[0].adapter_id == adapter


def test_undo_brings_back_the_verdict_before(store: Any) -> None:
    annotations = queue(store, numbered(1))
    annotations.record(1, "rewrite", ["better"])
    annotations.record(1, "accept")
    assert annotations.undo() == 1
    assert [(a.verdict, a.preferred.answer) for a in store.annotations()] == [("rewrite", "better")]
    assert annotations.undo() == 1
    assert store.annotations() == []
    assert annotations.undo() is None


def test_a_verdict_taken_back_is_asked_again_although_its_bin_was_replaced(store: Any) -> None:
    annotations = queue(store, numbered(1))
    annotations.record(1, "accept")
    store.add_dialogues([Dialogue.of("new", "newer")], "file")
    select(store, 0, 2, replaced_id=1)
    annotations.undo()
    assert [q.dialogue_id for q in annotations.questions()] == [1, 2]
    annotations.record(1, "accept")
    assert [q.dialogue_id for q in annotations.questions()] == [2]


def test_only_what_was_selected_can_be_judged(store: Any) -> None:
    annotations = queue(store, numbered(1))
    store.add_dialogues([Dialogue.of("a", "b"), Dialogue.of("c", "d")], "file")
    store.add_decision(2, "kept-out", "other", (0.5, 0.0, 1.0), None, None, {"reason": "a test"})
    for never in (2, 3):
        with pytest.raises(UserError, match=f"dialogue {never} was never selected"):
            annotations.record(never, "accept")


def test_no_verdict_is_taken_beyond_the_days_number(store: Any) -> None:
    annotations = queue(store, numbered(2), questions_per_day=1)
    annotations.record(1, "accept")
    with pytest.raises(UserError, match="one more than the 1 of today"):
        annotations.record(2, "accept")
    annotations.record(1, "skip")
    assert [a.verdict for a in store.annotations()] == ["skip"]


def test_a_day_begins_at_the_owners_midnight(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")  # 12 hours ahead of UTC in July
    time.tzset()
    try:
        annotations = queue(store, numbered(3), questions_per_day=1)
        at = "2030-07-01T11:59:00+00:00"
        monkeypatch.setattr("mlx_personal.annotation.now", lambda: at)
        monkeypatch.setattr("mlx_personal.profile.store.now", lambda: at)
        annotations.record(1, "accept")
        assert annotations.left_today() == 0
        monkeypatch.setattr("mlx_personal.annotation.now", lambda: "2030-07-01T12:01:00+00:00")
        assert annotations.left_today() == 1
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_skipped_dialogue_joins_no_group_until_it_is_judged(store: Any) -> None:
    seen = []

    def assign(dialogue: Any, judged: Any) -> Any:
        seen.append([(d.answer, group, held_out) for d, group, held_out in judged])
        return len(seen) + 4, True

    annotations = queue(store, numbered(2), assign=assign)
    annotations.record(1, "skip")
    annotations.record(2, "accept")
    annotations.record(2, "skip")
    annotations.record(1, "accept")
    assert seen == [[], [("answer 1", 5, True)]]
    assert {a.dialogue_id: (a.near_duplicates, a.held_out) for a in store.annotations()} == {1: (6, True), 2: (5, True)}


@pytest.mark.parametrize("number", [-1, 2**63])
def test_an_impossible_number_of_questions_is_refused(number: Any) -> None:
    with pytest.raises(ValueError, match="questions_per_day"):
        AnnotationConfig(number)
