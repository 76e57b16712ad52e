"""The annotation queue: few questions a day, every verdict kept, undo, and a split that never moves."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_personal.annotation import AnnotationConfig, AnnotationQueue
from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "profile")
    yield store
    store.close()


def queue(store, dialogues, questions_per_day=10, assign=lambda dialogue, judged: (len(judged), False)):
    store.add_dialogues(dialogues, "file")
    for slot in range(len(dialogues)):
        store.put_bin(slot, slot + 1, np.ones(2, np.float32), 0.5, 1.0)
    return AnnotationQueue(store, AnnotationConfig(questions_per_day), assign)


def numbered(count):
    return [Dialogue.of(f"question {i}", f"answer {i}") for i in range(count)]


def test_no_more_questions_a_day_than_the_owner_wants(store):
    annotations = queue(store, numbered(5), questions_per_day=2)
    assert [q.dialogue_id for q in annotations.questions()] == [1, 2]
    annotations.record(1, "accept")
    annotations.record(2, "skip")
    assert annotations.questions() == []
    assert annotations.left_today() == 0
    assert len(annotations.open_questions()) == 3


def test_the_next_day_brings_new_questions(store, monkeypatch):
    annotations = queue(store, numbered(3), questions_per_day=1)
    annotations.record(1, "accept")
    monkeypatch.setattr("mlx_personal.annotation.now", lambda: "2999-01-01T00:00:00+00:00")
    assert [q.dialogue_id for q in annotations.questions()] == [2]


def test_a_verdict_taken_back_is_asked_again_and_counts_once(store):
    annotations = queue(store, numbered(2), questions_per_day=1)
    annotations.record(1, "accept")
    assert annotations.undo() == 1
    assert [q.dialogue_id for q in annotations.questions()] == [1]
    annotations.record(1, "skip")
    assert annotations.questions() == []
    assert annotations.undo() == 1
    assert annotations.undo() is None


def test_verdicts_keep_what_the_owner_prefers(store):
    annotations = queue(store, numbered(4))
    annotations.record(1, "accept")
    annotations.record(2, "rewrite", ["better"])
    annotations.record(3, "edit", ["answer 2!"])
    annotations.record(4, "skip")
    kept = {a.dialogue_id: a.preferred and a.preferred.answer for a in store.annotations()}
    assert kept == {1: "answer 0", 2: "better", 3: "answer 2!", 4: None}


def test_a_replaced_bin_keeps_its_answer(store):
    annotations = queue(store, numbered(2))
    annotations.record(1, "accept")
    store.add_dialogues([Dialogue.of("new", "newer")], "file")
    store.put_bin(0, 3, np.ones(2, np.float32), 0.9, 1.0)
    assert [a.dialogue_id for a in store.annotations()] == [1]
    assert [q.dialogue_id for q in annotations.open_questions()] == [2, 3]


def test_a_dialogue_keeps_its_side_of_the_split_when_judged_anew(store):
    groups = iter([(0, True), (1, False)])
    annotations = queue(store, numbered(2), assign=lambda dialogue, judged: next(groups))
    annotations.record(1, "accept")
    annotations.undo()
    annotations.record(2, "accept")
    annotations.record(1, "skip")
    annotations.record(1, "accept")
    assert {a.dialogue_id: a.held_out for a in store.annotations()} == {1: True, 2: False}


def test_thoughts_are_no_part_of_a_preferred_answer(store):
    annotations = queue(store, [Dialogue.of("q", "<think>hm</think>yes")])
    annotations.record(1, "accept")
    assert store.annotations()[0].preferred == Dialogue.of("q", "yes")


@pytest.mark.parametrize(
    ("verdict", "given"),
    [("maybe", None), ("rewrite", None), ("rewrite", ["a", "b"]), ("edit", [""]), ("rewrite", ["a\0"])],
)
def test_a_verdict_that_cannot_be_kept_is_one_line_and_changes_nothing(store, verdict, given):
    annotations = queue(store, numbered(1))
    with pytest.raises(UserError) as caught:
        annotations.record(1, verdict, given)
    assert "\n" not in caught.value.line()
    assert store.annotations() == []


def test_a_verdict_on_an_unknown_dialogue_is_refused(store):
    with pytest.raises(UserError, match="no dialogue 7"):
        queue(store, numbered(1)).record(7, "accept")


def test_answers_of_an_adapted_model_are_marked(store):
    run = store.begin_run("training", "abc", {})
    adapter = store.add_adapter(run, "adapters/0001", "abc")
    store.add_dialogues(numbered(1), "chat", adapter)
    store.put_bin(0, 1, np.ones(2, np.float32), 0.5, 1.0)
    annotations = AnnotationQueue(store, AnnotationConfig(), lambda dialogue, judged: (0, False))
    assert annotations.questions()[0].adapter_id == adapter
