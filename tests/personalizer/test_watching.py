"""Watched folders: only new and changed files are imported, and what cannot be read is reported."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from mlx_personal.errors import UserError
from mlx_personal.personalizer import watching
from mlx_personal.personalizer.importing import ImportResult, import_paths
from mlx_personal.personalizer.watching import Poll, poll, unwatch, watch
from mlx_personal.profile import Store
from tests.support.cli import dialogue_line
from tests.support.exports import write_database, write_json

SOUP = dialogue_line("How do I cook soup?", "Slowly.")
BREAD = dialogue_line("How do I bake bread?", "In the oven.")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "profile")
    yield store
    store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "chats"
    folder.mkdir()
    (folder / "soup.jsonl").write_text(SOUP)
    return folder


def brought(result: Poll) -> tuple[int, int, str]:
    """Return the numbers of changed files and of new dialogues, and the problem."""
    return result.changed, result.result.summary.total("new") if result.result else 0, result.problem


def test_only_new_and_changed_files_are_imported(store: Store, folder: Path) -> None:
    assert watch(store, folder) == str(folder)
    assert [brought(result) for result in poll(store)] == [(1, 1, "")]
    assert [brought(result) for result in poll(store)] == [(0, 0, "")]
    (folder / "more").mkdir()
    (folder / "more" / "bread.jsonl").write_text(BREAD)
    assert [brought(result) for result in poll(store)] == [(1, 1, "")]
    (folder / "soup.jsonl").write_text(SOUP + "\n" + dialogue_line("And tea?", "With hot water."))
    assert [brought(result) for result in poll(store)] == [(1, 1, "")]
    os.utime(folder / "soup.jsonl", (0, 0))
    assert [brought(result) for result in poll(store)] == [(1, 0, "")]
    assert len(store.dialogues()) == 3
    [row] = store.watched.all()
    assert row.polled_at is not None and set(row.files) == {"soup.jsonl", "more/bread.jsonl"}


def test_files_that_are_not_read_do_not_hide_the_others(store: Store, folder: Path) -> None:
    watch(store, folder)
    poll(store)
    (folder / "settings.json").write_text('{"theme": "dark"}')
    [result] = poll(store)
    assert "is in no format that can be read" in result.problem
    assert [brought(result) for result in poll(store)] == [(0, 0, "")]
    (folder / "bread.jsonl").write_text(BREAD)
    assert [brought(result) for result in poll(store)] == [(1, 1, "")]


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Return a set of files that cannot be read, as by their permissions, as long as they are in it."""
    paths: set[Path] = set()
    open_path, access = Path.open, os.access

    def open_allowed(path: Path, *args: Any, **kwargs: Any) -> IO[Any]:
        if path in paths:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_path(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_allowed)
    monkeypatch.setattr(os, "access", lambda path, mode: path not in paths and access(path, mode))
    return paths


def test_a_file_without_permission_is_reported_once_and_read_when_it_has_one(
    store: Store, folder: Path, forbidden: set[Path]
) -> None:
    watch(store, folder)
    bread = folder / "bread.jsonl"
    bread.write_text(BREAD)
    forbidden.add(bread)
    [result] = poll(store)
    assert brought(result) == (2, 1, "") and result.result is not None
    assert [(row.reason, row.places) for row in result.result.summary.by_count()] == [("cannot be read", [str(bread)])]
    assert [brought(result) for result in poll(store)] == [(0, 0, "")]
    forbidden.clear()
    assert [brought(result) for result in poll(store)] == [(1, 1, "")]
    forbidden.add(bread)
    [result] = poll(store)
    assert result.problem == f"{bread}: no dialogue could be read (cannot be read); check the file, or export it again"
    assert [brought(result) for result in poll(store)] == [(0, 0, "")]


@pytest.mark.parametrize("suffix", ["wal", "journal"])
def test_a_database_is_read_again_when_its_log_can_be_read(
    store: Store, folder: Path, forbidden: set[Path], suffix: str
) -> None:
    log = folder / f"soup.jsonl-{suffix}"
    log.write_bytes(b"")
    forbidden.add(log)
    watch(store, folder / "soup.jsonl")
    assert [brought(result) for result in poll(store)] == [(1, 1, "")]
    assert [brought(result) for result in poll(store)] == [(0, 0, "")]
    forbidden.clear()
    assert [brought(result) for result in poll(store)] == [(1, 0, "")]


def test_titles_from_files_that_did_not_change_are_kept(store: Store, folder: Path) -> None:
    thread = folder / "t1"
    thread.mkdir()
    write_json(thread / "thread.json", {"id": "t1", "title": "Pears"})
    message = {"thread_id": "t1", "role": "user", "content": [{"type": "text", "text": {"value": "Which pear?"}}]}
    answer = {**message, "role": "assistant"}
    watch(store, folder)
    poll(store)
    (thread / "messages.jsonl").write_text("\n".join(map(repr, (message, answer))).replace("'", '"'))
    assert [brought(result) for result in poll(store)] == [(1, 1, "")]
    assert store.imports.origins(2)[0].origin.title == "Pears"


def test_a_database_is_read_again_when_its_log_changed(store: Store, tmp_path: Path) -> None:
    tables = "CREATE TABLE chats (id); CREATE TABLE messages (id INTEGER, chat_id, role, content, model_name);"
    rows = [(1, "c", "user", "How do I cook soup?", ""), (2, "c", "assistant", "Slowly.", "")]
    path = write_database(tmp_path / "db.sqlite", tables, {"chats": [("c",)], "messages": rows})
    app = sqlite3.connect(path, isolation_level=None)
    app.execute("PRAGMA journal_mode = WAL")
    watch(store, path)
    assert [brought(result)[1] for result in poll(store)] == [1]
    app.execute("INSERT INTO messages VALUES (3, 'c', 'user', 'And bread?', ''), (4, 'c', 'assistant', 'No.', '')")
    [result] = poll(store)
    assert result.result is not None and result.result.summary.total("continued") == 1
    app.close()


def test_a_folder_that_is_gone_is_reported_and_others_are_read(store: Store, folder: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    watch(store, gone)  # an empty folder may get its first file later
    watch(store, folder)
    gone.rmdir()
    first, second = poll(store)
    assert str(gone) in first.problem and "\n" not in first.problem
    assert brought(second) == (1, 1, "")
    gone.mkdir()
    (gone / "bread.jsonl").write_text(BREAD)
    assert [brought(result) for result in poll(store)] == [(1, 1, ""), (0, 0, "")]


def test_a_zip_in_a_watched_folder_is_read_when_it_changed(store: Store, folder: Path) -> None:
    watch(store, folder)
    poll(store)
    line = json.dumps({"prompt": "Which pear keeps?", "completion": "The winter pear."})
    with zipfile.ZipFile(folder / "export.zip", "w") as archive:
        archive.writestr("chats.jsonl", line)
    assert [brought(result) for result in poll(store)] == [(1, 1, "")]
    assert [brought(result) for result in poll(store)] == [(0, 0, "")]


def test_what_cannot_be_watched_is_refused(store: Store, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        watch(store, tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a format"):
        watch(store, folder, "nothing")
    other = tmp_path / "other"
    other.mkdir()
    (other / "chat.txt").write_text("[14.03.24, 18:22:10] Anna: Hello\n" * 3)
    with pytest.raises(UserError, match="has no file in a format that can be read"):
        watch(store, other)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(UserError):
        watch(store, loop)
    assert store.watched.all() == []


def test_the_format_can_be_forced_and_changed(store: Store, folder: Path) -> None:
    watch(store, folder, "markdown")
    [result] = poll(store)
    assert "no dialogue could be read" in result.problem
    watch(store, folder)
    assert [brought(result) for result in poll(store)] == [(1, 1, "")]
    assert [row.format for row in store.watched.all()] == [""]


def test_a_folder_is_known_by_its_absolute_path(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch(store, folder)
    monkeypatch.chdir(folder.parent)
    assert unwatch(store, Path("chats")) == str(folder)
    assert store.watched.all() == []
    with pytest.raises(UserError, match="is not watched"):
        unwatch(store, folder)


def test_a_file_that_changes_while_it_is_read_is_read_again(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(store, folder)

    def change_afterwards(*args: Any, **kwargs: Any) -> ImportResult:
        result = import_paths(*args, **kwargs)
        (folder / "soup.jsonl").write_text(SOUP + "\n" + BREAD)
        return result

    monkeypatch.setattr(watching, "import_paths", change_afterwards)
    poll(store)
    monkeypatch.undo()
    assert [brought(result) for result in poll(store)] == [(1, 1, "")]
