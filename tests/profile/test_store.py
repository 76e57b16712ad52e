"""The store: no duplicates, no partial writes, no loss, one writer."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.profile import NewSynthetic, Store, TrainingSource
from mlx_personal.profile.migrations import MIGRATIONS
from mlx_personal.storage.files import atomic_folder, atomic_write

EGGS = Dialogue.of("How long do eggs boil?", "Seven minutes.")
TEA = Dialogue.of("How hot is tea?", "Hot.")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "profile")
    yield store
    store.close()


def test_a_dialogue_is_stored_once(store: Store) -> None:
    assert store.add_dialogues([EGGS, TEA, EGGS], "file") == 2
    assert store.add_dialogues([EGGS], "other file") == 0
    assert [row.dialogue for row in store.dialogues()] == [EGGS, TEA]


def conversation(*answers: str) -> Dialogue:
    turns = [({"role": "user", "content": "And?"}, {"role": "assistant", "content": answer}) for answer in answers]
    return Dialogue.from_messages(message for exchange in turns for message in exchange)


def test_a_growing_conversation_is_one_dialogue(store: Store) -> None:
    store.add_dialogues([EGGS], "file")
    first = store.put_conversation(None, conversation("a"), "chat", None)
    assert first == 2
    store.add_dialogues([TEA], "file")
    assert store.put_conversation(first, conversation("a", "b"), "chat") == first
    assert store.put_conversation(first, conversation("a", "b", "c"), "chat") == first
    assert [row.dialogue for row in store.dialogues()] == [EGGS, conversation("a", "b", "c"), TEA]
    assert store.put_conversation(None, conversation("z"), "chat") == 4


def test_a_scored_state_of_a_conversation_stays(store: Store) -> None:
    first = store.put_conversation(None, conversation("a"), "chat")
    assert first == 1
    store.add_decision(first, "stored", "cooking", (0.5, 0.25, 1.0), 0, None, {})
    second = store.put_conversation(first, conversation("a", "b"), "chat")
    assert second == 2
    assert store.put_conversation(second, conversation("a", "b", "c"), "chat") == second
    assert [row.dialogue for row in store.dialogues()] == [conversation("a"), conversation("a", "b", "c")]


def test_a_conversation_that_the_stream_has_is_not_stored_again(store: Store) -> None:
    store.add_dialogues([conversation("a"), conversation("a", "b", "c")], "file")
    assert store.put_conversation(None, conversation("a"), "chat") is None
    third = store.put_conversation(None, conversation("a", "b"), "chat")
    assert third is not None
    assert store.put_conversation(third, conversation("a", "b", "c"), "chat") is None
    assert [row.source for row in store.dialogues()] == ["file", "file"]
    assert store.put_conversation(None, conversation("a", "b", "c", "d"), "chat") is not None
    assert store.dialogue_count() == 3


def test_a_conversation_that_cannot_be_stored_keeps_its_earlier_state(store: Store) -> None:
    first = store.put_conversation(None, conversation("a"), "chat")
    with pytest.raises(RuntimeError), store.transaction():
        store.put_conversation(first, conversation("a", "b"), "chat")
        raise RuntimeError
    assert [row.dialogue for row in store.dialogues()] == [conversation("a")]


def test_everything_written_is_read_back(store: Store) -> None:
    store.add_dialogues([EGGS, TEA], "file")
    vector = np.array([0.6, -0.8], np.float32)
    store.add_decision(1, "stored", "cooking", (0.5, 0.25, 1.0), 0, None, {"reason": "a free bin"})
    store.put_bin(0, 1, vector, 0.5, 1.0)
    better = Dialogue.of(EGGS.question, "Six.")
    annotation = store.add_annotation(1, "rewrite", better, 0, held_out=False)
    run = store.begin_run("synthesis", "abc", {"k": 1})
    kept = NewSynthetic(annotation, better, "[x]", 0.5, True, "kept")
    dropped = NewSynthetic(annotation, None, "x", None, False, "unparsable")
    store.add_synthetic(run, [kept, dropped])
    store.finish_run(run, {"kept": 1})
    training = store.begin_run("training", "abc", {"rank": 8})
    store.add_training_sources(training, [(annotation, None), (annotation, 1)])
    adapter = store.add_adapter(training, "adapters/0001", "abc")
    store.promote(adapter)

    (bin_row,) = store.bins()
    assert (bin_row.slot, bin_row.dialogue, bin_row.eoe, bin_row.idd) == (0, EGGS, 0.5, 1.0)
    np.testing.assert_array_equal(bin_row.vector, vector)
    assert store.annotations()[0].preferred == better
    assert [(s.dialogue, s.kept, s.reason) for s in store.synthetic()] == [
        (better, True, "kept"),
        (None, False, "unparsable"),
    ]
    last_synthesis, decision = store.last_run("synthesis"), store.decision(1)
    assert last_synthesis is not None
    assert last_synthesis.result == {"kept": 1}
    assert decision is not None
    assert (decision.action, decision.detail) == ("stored", {"reason": "a free bin"})
    assert store.last_run("training") is None, "a run that has not finished is not the last one"
    assert store.training_sources(training) == [TrainingSource(0, 1, 1, None), TrainingSource(1, 1, 1, 1)]
    assert [(a.id, a.promoted) for a in store.adapters()] == [(adapter, True)]
    assert [row.id for row in store.unscored(10)] == [2]


def test_a_later_synthesis_replaces_an_earlier_one_of_the_same_annotation(store: Store) -> None:
    store.add_dialogues([EGGS], "file")
    annotation = store.add_annotation(1, "accept", EGGS, 0, held_out=False)
    for text in ("first", "second"):
        run = store.begin_run("synthesis", "abc", {})
        store.add_synthetic(run, [NewSynthetic(annotation, EGGS, text, 0.5, True, "kept")])
    assert [s.run_id for s in store.synthetic()] == [2]


def test_an_undone_verdict_is_history_only(store: Store) -> None:
    store.add_dialogues([EGGS], "file")
    store.add_annotation(1, "accept", EGGS, 3, held_out=True)
    assert store.undo_annotation() == 1
    assert store.undo_annotation() is None
    assert store.annotations() == []
    assert [a.group for a in store.annotations(undone=True)] == [3]


def test_undoing_a_second_verdict_restores_the_first(store: Store) -> None:
    store.add_dialogues([EGGS], "file")
    store.add_annotation(1, "rewrite", TEA, 0, held_out=False)
    store.add_annotation(1, "accept", EGGS, 0, held_out=False)
    assert store.undo_annotation() == 1
    assert [a.preferred for a in store.annotations()] == [TEA]
    assert store.undo_annotation() == 1
    assert store.annotations() == []


@pytest.mark.parametrize("damage", ["UPDATE dialogues SET messages = '{'", "UPDATE bins SET vector = x'00'"])
def test_a_damaged_row_is_a_one_line_error(store: Store, damage: str) -> None:
    store.add_dialogues([EGGS], "file")
    store.put_bin(0, 1, np.ones(2, np.float32), 0.5, 1.0)
    store.database.fetch_all(damage)
    with pytest.raises(UserError, match="damaged"):
        store.bins()


def test_partial_files_of_a_killed_process_are_removed(store: Store, tmp_path: Path) -> None:
    left = tmp_path / "profile" / "adapters" / ".0002.abc.partial"
    left.mkdir(parents=True)
    (left / "weights").write_text("half")
    store.close()
    Store(tmp_path / "profile").close()
    assert not left.exists()


def test_a_failed_transaction_changes_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError), store.database.transaction():
        store.add_dialogues([EGGS], "file")
        raise RuntimeError
    assert store.dialogue_count() == 0


def test_a_full_disk_is_a_one_line_error_and_loses_nothing(store: Store) -> None:
    store.add_dialogues([EGGS], "file")
    store.database.fetch_all(
        "PRAGMA max_page_count = 1"
    )  # SQLite raises it to the present size: no page is left to grow
    big = [Dialogue.of(f"question {i}", "x" * 5000) for i in range(50)]
    with pytest.raises(UserError, match="the disk is full") as caught:
        store.add_dialogues(big, "file")
    assert "\n" not in caught.value.line()
    assert [row.dialogue for row in store.dialogues()] == [EGGS]
    store.database.fetch_all("PRAGMA max_page_count = 100000")
    assert store.add_dialogues(big, "file") == 50


def test_a_second_writer_is_refused_with_the_pid_of_the_first(store: Store, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from mlx_personal.errors import UserError\n"
        "from mlx_personal.profile import Store\n"
        "try: Store(pathlib.Path(sys.argv[1]))\n"
        "except UserError as error: print(error.line())\n"
    )
    refused = subprocess.run([sys.executable, "-c", code, str(tmp_path / "profile")], capture_output=True, text=True)
    assert "in use by another process (pid" in refused.stdout
    assert refused.stderr == ""


def test_a_reader_works_beside_the_writer(store: Store, tmp_path: Path) -> None:
    store.add_dialogues([EGGS], "file")
    reader = Store(tmp_path / "profile", write=False)
    assert reader.dialogue_count() == 1
    reader.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only inside the block, for root too, which becomes another user there."""
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_reader_needs_no_permission_to_write(open_folder: Path) -> None:
    store = Store(open_folder / "profile")
    store.add_dialogues([EGGS], "file")
    store.close()
    before = sorted(open_folder.rglob("*"))
    with read_only(open_folder):
        reader = Store(open_folder / "profile", write=False)
        assert [row.dialogue for row in reader.dialogues()] == [EGGS]
        reader.close()
        with pytest.raises(UserError, match="cannot write or read here; check its permissions, or set MLX"):
            Store(open_folder / "profile")
    assert sorted(open_folder.rglob("*")) == before


def test_the_log_of_a_killed_writer_is_read_or_refused_but_never_ignored(
    open_folder: Path, store: Store, tmp_path: Path
) -> None:
    store.add_dialogues([EGGS], "file")
    shutil.copytree(tmp_path / "profile", open_folder / "profile")  # as after a kill: everything is in the log
    with read_only(open_folder):
        reader = Store(open_folder / "profile", write=False)
        assert reader.dialogue_count() == 1
        reader.close()
    open_folder.joinpath("profile").chmod(0o755)
    (open_folder / "profile" / "profile.db-shm").unlink()
    with read_only(open_folder), pytest.raises(UserError, match="the profile cannot be written or read"):
        Store(open_folder / "profile", write=False)


def test_a_database_of_an_older_version_is_migrated_by_a_reader_too(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "profile.db") as connection:
        connection.executescript("DROP TABLE promotions; DROP TABLE training_rows; PRAGMA user_version = 0")
        tables = [r[0] for r in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if not table.startswith("sqlite_"):
                connection.execute(f"DROP TABLE {table}")
    reader = Store(tmp_path, write=False)
    assert reader.promotions() == []
    Store(tmp_path).close()  # the reader holds no lock
    reader.close()


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "profile.db") as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(UserError, match="newer mlx-personal"):
        Store(tmp_path)


def test_a_file_that_is_not_a_database_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "profile.db").write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match="damaged"):
        Store(tmp_path)


def test_a_home_that_cannot_be_written_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError) as caught:
        Store(tmp_path / "file" / "profile")
    assert "\n" not in caught.value.line()


def test_only_the_user_can_read_the_database(store: Store, tmp_path: Path) -> None:
    assert (tmp_path / "profile" / "profile.db").stat().st_mode & 0o077 == 0


def test_atomic_writes_keep_the_old_file_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings"
    atomic_write(path, "old")

    def full(descriptor: int) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="the disk is full"):
        atomic_write(path, "new")
    with pytest.raises(UserError, match="the disk is full"), atomic_folder(tmp_path / "adapter") as folder:
        (folder / "weights").write_bytes(b"1")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["settings"]


def test_counts_equal_the_lists_they_count(store: Store) -> None:
    dialogues = [Dialogue.of(f"question {i}", f"answer {i}") for i in range(6)]
    store.add_dialogues(dialogues, "file")
    for slot in range(4):
        store.add_decision(slot + 1, "stored", "other", (0.5, 0.0, 1.0), slot, None, {"reason": "a test"})
        store.put_bin(slot, slot + 1, np.ones(2, np.float32), 0.5, 1.0)
    first = store.add_annotation(1, "accept", dialogues[0], 0, held_out=False)
    store.add_annotation(2, "accept", dialogues[1], 1, held_out=True)
    store.add_annotation(3, "skip", None, -1, held_out=False)
    store.add_annotation(4, "accept", dialogues[3], 2, held_out=False)
    assert store.undo_annotation() == 4
    run = store.begin_run("synthesis", "abc", {})
    store.add_synthetic(run, [NewSynthetic(first, EGGS, "[x]", 0.5, kept, "a test") for kept in (True, False, True)])
    assert (store.bin_count(), store.highest_slot()) == (len(store.bins()), 3)
    counts = store.annotation_counts()
    assert (counts.annotated, counts.held_out, counts.skipped) == (2, 1, 1)
    assert store.synthetic_counts() == (len(store.synthetic()), sum(s.kept for s in store.synthetic())) == (3, 2)
    assert store.open_question_ids() == [4]
    assert store.open_question_count() == 1
    assert (store.unsynthesized_count(), store.last_preferred_id()) == (0, first)
    assert [i for i, _ in store.annotation_times()] == [1, 2, 3, 4]
    annotation = store.annotation_of(2)
    assert annotation is not None
    assert annotation.held_out
    assert store.annotation_of(4) is None


def test_an_empty_profile_has_empty_counts(store: Store) -> None:
    assert (store.bin_count(), store.highest_slot(), store.synthetic_counts()) == (0, None, (0, 0))
    assert (store.open_question_count(), store.unsynthesized_count(), store.last_preferred_id()) == (0, 0, 0)
    counts = store.annotation_counts()
    assert (counts.annotated, counts.held_out, counts.skipped) == (0, 0, 0)


def test_a_model_record_belongs_to_the_current_base_model(store: Store) -> None:
    store.set_model("first", "f1")
    assert store.model_record("chat_format") is None
    store.set_model_record("chat_format", {"end_token": "<|im_end|>"})
    store.set_model_record("chat_format", {"end_token": "</s>"})
    assert store.model_record("chat_format") == {"end_token": "</s>"}
    assert store.model_record("prompt_style") is None
    store.set_model("second", "f2")
    assert store.model_record("chat_format") is None


def test_counts_over_a_long_stream_read_no_texts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them reads an index that has all that it needs, and not the rows of the table."""
    queries: list[tuple[str, tuple[object, ...]]] = []
    fetch_all = store.database.fetch_all

    def record(query: str, *values: object) -> list[sqlite3.Row]:
        queries.append((query, values))
        return fetch_all(query, *values)

    monkeypatch.setattr(store.database, "fetch_all", record)
    store.dialogue_count()
    store.action_counts()
    store.changed_bins(after=0)
    assert len(queries) == 3
    for query, values in queries:
        plan = [row["detail"] for row in fetch_all(f"EXPLAIN QUERY PLAN {query}", *values)]
        assert any("USING COVERING INDEX" in step for step in plan), plan
        assert not any(step in ("SCAN dialogues", "SCAN decisions") for step in plan), plan
