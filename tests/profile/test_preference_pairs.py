"""A preference pair is used unless a later verdict in its conversation opposes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_personal.dialogue import Dialogue
from mlx_personal.profile import Origin, PreferencePairRow, Store
from mlx_personal.profile.undo_import import undo_import


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "profile")
    yield store
    store.close()


def chat(*answers: str) -> Dialogue:
    turns = [
        [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": answer}]
        for number, answer in enumerate(answers)
    ]
    return Dialogue.from_messages(message for exchange in turns for message in exchange)


def add(store: Store, import_id: int, dialogue: Dialogue, conversation_id: str = "c1") -> int:
    dialogue_id = store.imports.add(import_id, dialogue, "import:x", Origin("app", conversation_id))
    assert dialogue_id is not None
    return dialogue_id


def rate(store: Store, import_id: int, dialogue_id: int, answer: int, rating: str, source: str = "thumbs") -> None:
    store.imports.add_verdicts(import_id, dialogue_id, [(answer, rating, source, "seen")])


def pair(dialogue_id: int, chosen: str, rejected: str, source: str, answer: int = 0) -> PreferencePairRow:
    return PreferencePairRow(dialogue_id, answer, chosen, rejected, source)


def test_only_the_pairs_of_the_answer_that_is_rated_good_are_opposed(store: Store) -> None:
    first, later = (store.imports.begin(["x"], {}) for _ in range(2))
    dialogue_id = add(store, first, chat("first", "<think>hm</think>second", "third"))
    pairs = [pair(dialogue_id, "third", rejected, "correction") for rejected in ("first", "second")]
    for row in pairs:
        store.pairs.add(first, row)
    rate(store, first, dialogue_id, 1, "bad", "correction")
    rate(store, later, dialogue_id, 1, "good")
    assert (store.pairs.usable(), store.pairs.usable_count()) == (pairs[:1], 1)
    rate(store, store.imports.begin(["x"], {}), dialogue_id, 1, "bad")
    assert store.pairs.usable() == pairs, "the latest verdict counts"


def test_a_verdict_on_another_dialogue_of_the_conversation_counts(store: Store) -> None:
    first, later = (store.imports.begin(["x"], {}) for _ in range(2))
    dialogue_id = add(store, first, chat("first"))
    row = pair(dialogue_id, "first", "second", "regenerated")
    store.pairs.add(first, row)
    elsewhere = add(store, later, chat("second", "else"), "c2")
    rate(store, later, elsewhere, 0, "good")
    assert store.pairs.usable() == [row]
    other_branch = add(store, later, chat("second"))
    rate(store, later, other_branch, 0, "good")
    assert store.pairs.usable() == []
    undo_import(store, later)
    assert store.pairs.usable() == [row]


@pytest.mark.parametrize(("source", "is_used"), [("regenerated", False), ("correction", False), ("preference", True)])
def test_a_bad_chosen_answer_is_preferred_only_if_the_owner_said_so(store: Store, source: str, is_used: bool) -> None:
    batch = store.imports.begin(["x"], {})
    dialogue_id = add(store, batch, chat("first"))
    store.pairs.add(batch, pair(dialogue_id, "first", "second", source))
    rate(store, batch, dialogue_id, 0, "bad")
    assert store.pairs.usable_count() == int(is_used)


def test_a_pair_is_known_by_its_prompt_and_its_rejected_answer(store: Store) -> None:
    batch = store.imports.begin(["x"], {})
    dialogue_id = add(store, batch, chat("first", "second"))
    store.pairs.add(batch, pair(dialogue_id, "second", "first", "correction"))
    assert store.pairs.has(pair(dialogue_id, "else", "first", "correction"))
    assert not store.pairs.has(pair(dialogue_id, "second", "else", "correction"))
    assert not store.pairs.has(pair(dialogue_id, "second", "first", "correction", answer=1))
