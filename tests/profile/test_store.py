"""The store: nothing twice, nothing half, nothing lost, one writer."""

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
from typing import Any

import numpy as np
import pytest

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.profile import Home, Store
from mlx_personal.profile.migrations import MIGRATIONS
from mlx_personal.storage.files import atomic_folder, atomic_write

EGGS = Dialogue.of("How long do eggs boil?", "Seven minutes.")
TEA = Dialogue.of("How hot is tea?", "Hot.")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    store = Store(tmp_path / "profile")
    yield store
    store.close()


def test_a_dialogue_is_stored_once_however_often_it_comes(store: Any) -> None:
    assert store.add_dialogues([EGGS, TEA, EGGS], "file") == 2
    assert store.add_dialogues([EGGS], "other file") == 0
    assert [row.dialogue for row in store.dialogues()] == [EGGS, TEA]


def test_everything_written_is_read_back(store: Any) -> None:
    store.add_dialogues([EGGS, TEA], "file")
    vector = np.array([0.6, -0.8], np.float32)
    store.add_decision(1, "stored", "cooking", (0.5, 0.25, 1.0), 0, None, {"reason": "a free bin"})
    store.put_bin(0, 1, vector, 0.5, 1.0)
    better = Dialogue.of(EGGS.question, "Six.")
    annotation = store.add_annotation(1, "rewrite", better, 0, held_out=False)
    run = store.begin_run("synthesis", "abc", {"k": 1})
    store.add_synthetic(
        run, [(annotation, better, "[x]", 0.5, True, "kept"), (annotation, None, "x", None, False, "unparsable")]
    )
    store.finish_run(run, {"kept": 1})
    training = store.begin_run("training", "abc", {"rank": 8})
    store.add_training_rows(training, [(annotation, None), (annotation, 1)])
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
    assert store.last_run("synthesis").result == {"kept": 1}
    assert store.last_run("training") is None, "a run that has not finished is not the last one"
    assert [tuple(row) for row in store.training_sources(training)] == [(0, 1, 1, None), (1, 1, 1, 1)]
    assert [(a.id, a.promoted) for a in store.adapters()] == [(adapter, True)]
    assert [row.id for row in store.unscored(10)] == [2]


def test_a_later_synthesis_replaces_the_earlier_one_of_the_same_annotation(store: Any) -> None:
    store.add_dialogues([EGGS], "file")
    annotation = store.add_annotation(1, "accept", EGGS, 0, held_out=False)
    for text in ("first", "second"):
        run = store.begin_run("synthesis", "abc", {})
        store.add_synthetic(run, [(annotation, EGGS, text, 0.5, True, "kept")])
    assert [s.run_id for s in store.synthetic()] == [2]


def test_an_undone_verdict_is_kept_as_history_only(store: Any) -> None:
    store.add_dialogues([EGGS], "file")
    store.add_annotation(1, "accept", EGGS, 3, held_out=True)
    assert store.undo_annotation() == 1
    assert store.undo_annotation() is None
    assert store.annotations() == []
    assert [a.near_duplicates for a in store.annotations(undone=True)] == [3]


def test_undoing_a_second_verdict_brings_the_first_back(store: Any) -> None:
    store.add_dialogues([EGGS], "file")
    store.add_annotation(1, "rewrite", TEA, 0, held_out=False)
    store.add_annotation(1, "accept", EGGS, 0, held_out=False)
    assert store.undo_annotation() == 1
    assert [a.preferred for a in store.annotations()] == [TEA]
    assert store.undo_annotation() == 1
    assert store.annotations() == []


@pytest.mark.parametrize("damage", ["UPDATE dialogues SET messages = '{'", "UPDATE bins SET vector = x'00'"])
def test_damage_inside_a_row_is_one_line(store: Any, damage: str) -> None:
    store.add_dialogues([EGGS], "file")
    store.put_bin(0, 1, np.ones(2, np.float32), 0.5, 1.0)
    store.database.rows(damage)
    with pytest.raises(UserError, match="damaged"):
        store.bins()


def test_what_a_killed_process_left_is_removed(store: Any, tmp_path: Path) -> None:
    left = tmp_path / "profile" / "adapters" / ".0002.abc.partial"
    left.mkdir(parents=True)
    (left / "weights").write_text("half")
    store.close()
    Store(tmp_path / "profile").close()
    assert not left.exists()


def test_a_transaction_that_fails_leaves_nothing(store: Any) -> None:
    with pytest.raises(RuntimeError), store.database.transaction():
        store.add_dialogues([EGGS], "file")
        raise RuntimeError
    assert store.received() == 0


def test_a_full_disk_is_one_line_and_loses_nothing_stored(store: Any) -> None:
    store.add_dialogues([EGGS], "file")
    store.database.rows("PRAGMA max_page_count = 1")  # SQLite raises it to the present size: no page is left to grow
    big = [Dialogue.of(f"question {i}", "x" * 5000) for i in range(50)]
    with pytest.raises(UserError, match="the disk is full") as caught:
        store.add_dialogues(big, "file")
    assert "\n" not in caught.value.line()
    assert [row.dialogue for row in store.dialogues()] == [EGGS]
    store.database.rows("PRAGMA max_page_count = 100000")
    assert store.add_dialogues(big, "file") == 50


def test_a_second_process_on_a_profile_is_told_who_has_it(store: Any, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from mlx_personal.errors import UserError\n"
        "from mlx_personal.profile import Store\n"
        "try: Store(pathlib.Path(sys.argv[1]))\n"
        "except UserError as error: print(error.line())\n"
    )
    told = subprocess.run([sys.executable, "-c", code, str(tmp_path / "profile")], capture_output=True, text=True)
    assert "in use by another process (pid" in told.stdout
    assert told.stderr == ""


def test_a_reader_works_beside_the_writer(store: Any, tmp_path: Path) -> None:
    store.add_dialogues([EGGS], "file")
    reader = Store(tmp_path / "profile", write=False)
    assert reader.received() == 1
    reader.close()


@pytest.fixture
def open_folder() -> Iterator[Any]:
    """A folder that every user may enter, which pytest's are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


@contextlib.contextmanager
def with_read_only(folder: Any) -> Iterator[Any]:
    """Inside, nothing in the folder can be written, by root neither: who is root is nobody there."""
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


def test_a_reader_needs_no_permission_to_write(open_folder: Any) -> None:
    store = Store(open_folder / "profile")
    store.add_dialogues([EGGS], "file")
    store.close()
    before = sorted(open_folder.rglob("*"))
    with with_read_only(open_folder):
        reader = Store(open_folder / "profile", write=False)
        assert [row.dialogue for row in reader.dialogues()] == [EGGS]
        reader.close()
        with pytest.raises(UserError, match="cannot write or read here; check its permissions, or set MLX"):
            Store(open_folder / "profile")
    assert sorted(open_folder.rglob("*")) == before


def test_what_a_killed_writer_left_in_its_log_is_read_or_refused_but_never_left_out(
    open_folder: Any, store: Any, tmp_path: Path
) -> None:
    store.add_dialogues([EGGS], "file")
    shutil.copytree(tmp_path / "profile", open_folder / "profile")  # as a kill leaves it: all is in the log
    with with_read_only(open_folder):
        reader = Store(open_folder / "profile", write=False)
        assert reader.received() == 1
        reader.close()
    open_folder.joinpath("profile").chmod(0o755)
    (open_folder / "profile" / "profile.db-shm").unlink()
    with with_read_only(open_folder), pytest.raises(UserError, match="the profile cannot be written or read"):
        Store(open_folder / "profile", write=False)


def test_a_database_of_an_older_version_is_brought_up_by_whoever_writes(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "profile.db") as connection:
        connection.executescript("DROP TABLE promotions; DROP TABLE training_rows; PRAGMA user_version = 0")
        tables = [r[0] for r in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if not table.startswith("sqlite_"):
                connection.execute(f"DROP TABLE {table}")
    with pytest.raises(UserError, match="older version"):
        Store(tmp_path, write=False)
    Store(tmp_path).close()
    Store(tmp_path, write=False).close()


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "profile.db") as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(UserError, match="newer mlx-personal"):
        Store(tmp_path)


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "profile.db").write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match="damaged"):
        Store(tmp_path)


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError) as caught:
        Store(tmp_path / "file" / "profile")
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize("name", ["../other", "a/b", "", ".hidden", "x" * 65, "a\0b"])
def test_a_profile_cannot_leave_its_home(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        Home(tmp_path).profile(name)


def test_the_database_is_for_its_owner_only(store: Any, tmp_path: Path) -> None:
    assert (tmp_path / "profile" / "profile.db").stat().st_mode & 0o077 == 0


def test_atomic_writes_leave_the_old_file_when_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings"
    atomic_write(path, "old")

    def full(descriptor: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="the disk is full"):
        atomic_write(path, "new")
    with pytest.raises(UserError, match="the disk is full"), atomic_folder(tmp_path / "adapter") as folder:
        (folder / "weights").write_bytes(b"1")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["settings"]
