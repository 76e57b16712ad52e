"""An import can be taken back whole, with all that was made of it, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlx_personal.dialogue import Dialogue
from mlx_personal.personalizer.importing import import_paths
from mlx_personal.profile import NewSynthetic, Origin, PreferencePairRow, Store
from mlx_personal.profile.undo_import import (
    ImportDependents,
    TakenBackSamples,
    UndoneImport,
    import_dependents,
    taken_back_samples,
    undo_import,
)

TEA = Dialogue.of("How hot is tea?", "Hot.")
VECTOR = np.ones(4, np.float32) / 2


def chat(*questions: str) -> Dialogue:
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": f"{q}!"}] for q in questions]
    return Dialogue.from_messages(message for exchange in turns for message in exchange)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "profile")
    yield store
    store.close()


def begin(store: Store) -> int:
    return store.imports.begin(["x.json"], {})


def add(store: Store, import_id: int, dialogue: Dialogue, position: int = 0) -> int:
    dialogue_id = store.imports.add(import_id, dialogue, "import:x", Origin("app", "c1", position=position))
    assert dialogue_id is not None
    return dialogue_id


def extend(store: Store, import_id: int, dialogue_id: int, dialogue: Dialogue, position: int) -> None:
    assert store.imports.extend(import_id, dialogue_id, dialogue, Origin("app", "c1", position=position))


def select(store: Store, dialogue_id: int, slot: int, replaced_id: int | None = None) -> None:
    action = "stored" if replaced_id is None else "replaced"
    store.add_decision(dialogue_id, action, "food", (1.0, 1.0, 1.0), slot, replaced_id, {"reason": "test"})
    store.put_bin(slot, dialogue_id, VECTOR, 1.0, 1.0)


def exchanges(store: Store) -> list[tuple[object, ...]]:
    """Return the dialogue and the answer of each exchange that is known."""
    return [tuple(row) for row in store.database.fetch_all("SELECT dialogue_id, answer FROM exchanges ORDER BY 1, 2")]


def content(store: Store) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows of all tables except for the imports themselves."""
    names = [row["name"] for row in store.database.fetch_all("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {
        name: [tuple(row) for row in store.database.fetch_all(f"SELECT * FROM {name}")]
        for name in names
        if name not in ("imports", "sqlite_sequence")
    }


def test_all_that_was_made_of_an_import_is_deleted(store: Store) -> None:
    store.add_dialogues([TEA], "file")
    select(store, 1, 0)
    store.add_annotation(1, "accept", TEA, 1, False)
    before = content(store)
    batch = begin(store)
    dialogue_id = add(store, batch, chat("a", "b"))
    select(store, dialogue_id, 1)
    store.sample.put(0, dialogue_id, VECTOR, 1.0)
    for _ in range(2):  # the second verdict replaces the first
        annotation = store.add_annotation(dialogue_id, "accept", chat("a", "b"), 2, True)
    synthesis = store.begin_run("synthesis", "model", {})
    store.add_synthetic(synthesis, [NewSynthetic(annotation, TEA, "raw", 0.5, True, "kept")])
    (synthetic,) = store.synthetic()
    training = store.begin_run("training", "model", {})
    store.add_training_sources(training, [(annotation, None), (annotation, synthetic.id)])
    store.finish_run(training, {})
    adapter = store.add_adapter(training, "adapters/0001", "model")
    store.imports.add_verdicts(batch, dialogue_id, [(0, "good", "thumbs", "up")])
    store.pairs.add(batch, PreferencePairRow(dialogue_id, 0, "a!", "no", "regenerated"))
    assert import_dependents(store, batch) == ImportDependents(1, 1, 1, 1, (adapter,))
    assert undo_import(store, batch) == UndoneImport(deleted=1, shortened=0, freed_bins=1)
    after = content(store)
    for table in ("runs", "adapters"):
        del before[table], after[table]
    assert after == before
    assert taken_back_samples(store, training) == TakenBackSamples(samples=2, synthetic=1, dialogues=1)
    assert taken_back_samples(store, synthesis) == TakenBackSamples()
    (row,) = store.imports.all()
    assert row.undone_at is not None


def test_what_several_imports_taught_an_adapter_adds_up(store: Store) -> None:
    batches = [begin(store), begin(store)]
    dialogue_ids = [add(store, batch, chat(name)) for batch, name in zip(batches, "ab", strict=True)]
    verdicts = [store.add_annotation(i, "accept", TEA, i, False) for i in dialogue_ids]
    training = store.begin_run("training", "model", {})
    store.add_training_sources(training, [(verdict, None) for verdict in verdicts])
    store.finish_run(training, {"loss": 1.0})
    for number, batch in enumerate(batches, 1):
        undo_import(store, batch)
        assert taken_back_samples(store, training) == TakenBackSamples(number, 0, number)
        assert len(store.training_sources(training)) == 2 - number
    run = store.run(training)
    assert run is not None and run.result is not None and run.result["loss"] == 1.0


def test_verdicts_accepted_by_what_a_later_import_had_are_undone_with_it(store: Store) -> None:
    first, second = begin(store), begin(store)
    dialogues = [add(store, first, chat(question)) for question in "abcd"]
    origins = ["inferred", "inferred", "proposal", "owner"]
    for slot, (dialogue_id, origin) in enumerate(zip(dialogues, origins, strict=True)):
        select(store, dialogue_id, slot)
        store.imports.add_verdicts(second, dialogue_id, [(0, "good", "thumbs", "up")])
        store.add_annotation(dialogue_id, "accept", chat("x"), slot, False, origin)
    store.imports.add_verdicts(first, dialogues[1], [(0, "good", "thanks", "thanks")])
    training = store.begin_run("training", "model", {})
    store.add_training_sources(training, [(1, None)])
    store.finish_run(training, {})
    adapter = store.add_adapter(training, "adapters/0001", "model")
    assert import_dependents(store, second) == ImportDependents(0, 0, 1, 0, (adapter,))
    assert undo_import(store, second) == UndoneImport(deleted=0, shortened=0, freed_bins=0)
    assert [annotation.dialogue_id for annotation in store.annotations()] == dialogues[1:]


def test_dialogues_that_replaced_an_imported_one_stay_without_naming_it(store: Store) -> None:
    batch = begin(store)
    select(store, add(store, batch, chat("a")), 0)
    store.add_dialogues([TEA], "file")
    select(store, 2, 0, replaced_id=1)
    assert import_dependents(store, batch) == ImportDependents(1, 0, 0, 0, ())
    assert undo_import(store, batch) == UndoneImport(deleted=1, shortened=0, freed_bins=0)
    decision = store.decision(2)
    assert decision is not None and (decision.action, decision.replaced_id) == ("replaced", None)
    assert [bin_.dialogue_id for bin_ in store.bins()] == [2]


def test_an_interrupted_training_on_it_is_not_resumed(store: Store) -> None:
    batch = begin(store)
    dialogue_id = add(store, batch, chat("a"))
    select(store, dialogue_id, 0)
    store.add_dialogues([TEA], "file")
    select(store, 2, 1)
    verdicts = [store.add_annotation(i, "accept", TEA, i, False) for i in (dialogue_id, 2)]
    training = store.begin_run("training", "model", {})
    store.add_training_sources(training, [(verdict, None) for verdict in verdicts])
    undo_import(store, batch)
    assert store.training_sources(training) == []


def test_a_continued_dialogue_loses_the_last_turns(store: Store) -> None:
    first, second = begin(store), begin(store)
    dialogue_id = add(store, first, chat("a"))
    store.imports.add_verdicts(first, dialogue_id, [(0, "good", "thumbs", "up")])
    extend(store, second, dialogue_id, chat("a", "b"), 2)
    store.imports.add_verdicts(second, dialogue_id, [(1, "bad", "thumbs", "down")])
    assert undo_import(store, second) == UndoneImport(deleted=0, shortened=1, freed_bins=0)
    assert [(row.id, row.dialogue) for row in store.dialogues()] == [(dialogue_id, chat("a"))]
    assert [(verdict.answer, verdict.rating) for verdict in store.imports.verdicts(dialogue_id)] == [(0, "good")]
    assert [row.import_id for row in store.imports.origins(dialogue_id)] == [first]
    assert exchanges(store) == [(dialogue_id, 0)]


def test_a_scored_continuation_joins_the_stream_again_without_them(store: Store) -> None:
    first, second = begin(store), begin(store)
    dialogue_id = add(store, first, chat("a"))
    store.imports.add_verdicts(first, dialogue_id, [(0, "good", "thumbs", "up")])
    extend(store, second, dialogue_id, chat("a", "b"), 2)
    store.add_dialogues([TEA], "file")
    for slot, scored_id in enumerate((dialogue_id, 2)):
        select(store, scored_id, slot)
    assert undo_import(store, second) == UndoneImport(deleted=0, shortened=1, freed_bins=1)
    assert [(row.id, row.dialogue) for row in store.dialogues()] == [(2, TEA), (3, chat("a"))]
    assert [row.id for row in store.unscored(10)] == [3]
    assert [verdict.dialogue_id for verdict in store.imports.verdicts(3)] == [3]
    assert exchanges(store) == [(3, 0)]
    assert undo_import(store, first) == UndoneImport(deleted=1, shortened=0, freed_bins=0)
    assert [row.id for row in store.dialogues()] == [2]


def test_a_later_import_inherits_the_turns_of_an_earlier_one(store: Store) -> None:
    first, second, third = begin(store), begin(store), begin(store)
    dialogue_id = add(store, first, chat("a"))
    store.imports.add_verdicts(first, dialogue_id, [(0, "good", "thumbs", "up")])
    extend(store, second, dialogue_id, chat("a", "b"), 2)
    extend(store, third, dialogue_id, chat("a", "b", "c"), 4)
    assert import_dependents(store, first).dialogues == 0
    assert undo_import(store, first) == UndoneImport(0, 0, 0)
    assert [(row.import_id, row.origin.position) for row in store.imports.origins(dialogue_id)] == [
        (second, 0),
        (third, 4),
    ]
    assert len(store.imports.verdicts(dialogue_id)) == 1
    assert undo_import(store, third) == UndoneImport(0, 1, 0)
    assert [row.dialogue for row in store.dialogues()] == [chat("a", "b")]
    assert undo_import(store, second) == UndoneImport(1, 0, 0)
    assert store.dialogues() == [] and store.imports.verdicts(dialogue_id) == []


def test_the_rest_is_deleted_if_the_stream_has_it_from_elsewhere(store: Store) -> None:
    for is_scored in (False, True):
        first, second = begin(store), begin(store)
        dialogue_id = add(store, first, chat("a"))
        extend(store, second, dialogue_id, chat("a", "b"), 2)
        store.add_dialogues([chat("a")], "file")
        if is_scored:
            select(store, dialogue_id, 0)
        assert undo_import(store, second) == UndoneImport(1, 0, int(is_scored))
        assert [row.source for row in store.dialogues()] == ["file"]
        with store.transaction() as connection:
            connection.execute("DELETE FROM dialogues")


def test_verdicts_on_known_dialogues_are_taken_back(store: Store) -> None:
    first, second = begin(store), begin(store)
    dialogue_id = add(store, first, chat("a"))
    store.imports.add_verdicts(second, dialogue_id, [(0, "good", "thumbs", "up")])
    assert undo_import(store, second) == UndoneImport(0, 0, 0)
    assert store.imports.verdicts(dialogue_id) == [] and store.dialogue_count() == 1


@pytest.mark.usefixtures("insecure_delete")
def test_no_text_stays_in_the_file(tmp_path: Path) -> None:
    """Neither of what is deleted, nor of what a longer dialogue replaced before."""
    store = Store(tmp_path / "profile")
    batch = begin(store)
    secret = "a very particular sentence"
    questions = [f"{secret} {number}" for number in range(500)]
    dialogue_id = add(store, batch, chat(*questions))
    extend(store, batch, dialogue_id, chat(*questions, *(f"then {secret}" for _ in range(500))), 1000)
    skipped = {"reason": f"about {secret}", "places": [f"{secret}.json"] * 500}
    store.imports.finish(batch, {"apps": {}, "skipped": [skipped]})
    store.close()  # the text is in the database file from here on
    assert secret.encode() in (tmp_path / "profile" / "profile.db").read_bytes()
    store = Store(tmp_path / "profile")
    undo_import(store, batch)
    store.close()
    assert all(secret.encode() not in file.read_bytes() for file in (tmp_path / "profile").iterdir())


@pytest.mark.usefixtures("insecure_delete")
def test_no_sampled_vector_stays_in_the_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "profile")
    batch = begin(store)
    vector = np.linspace(0, 1, 600, dtype=np.float32)
    for number in range(20):
        dialogue_id = add(store, batch, chat(f"question {number}"))
        store.sample.put(number, dialogue_id, vector, 0.5)
    store.close()
    secret = vector[100:140].tobytes()
    assert secret in (tmp_path / "profile" / "profile.db").read_bytes()
    store = Store(tmp_path / "profile")
    undo_import(store, batch)
    assert store.sample.rows() == []
    store.close()
    assert all(secret not in file.read_bytes() for file in (tmp_path / "profile").iterdir())


def test_a_dialogue_that_a_later_export_had_too_goes_with_the_first_import(tmp_path: Path, store: Store) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a!"}]}
    export = tmp_path / "export.jsonl"
    export.write_text(json.dumps(row))
    first = import_paths(store, [export]).import_id
    assert first is not None and import_paths(store, [export]).import_id is None
    assert undo_import(store, first) == UndoneImport(deleted=1, shortened=0, freed_bins=0)
    assert import_paths(store, [export]).summary.total("new") == 1, "the export can be imported again"
