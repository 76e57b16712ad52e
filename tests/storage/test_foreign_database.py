"""Databases of other programs: their logs, damage of any kind, and nothing that is changed or left beside them."""

from __future__ import annotations

import contextlib
import gc
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal.errors import UserError
from mlx_personal.importers import read_imports
from mlx_personal.storage.foreign_database import column_names, log_files, open_foreign_database

ROWS = 100
UNKNOWN_MODULE = "CREATE VIRTUAL TABLE vectors USING vec0(embedding float[3])"


def write(path: Path) -> Path:
    """Write a database of many small pages, and return its path."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA page_size = 512")
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
        connection.executemany("INSERT INTO notes VALUES (?, ?)", [(n, "committed " * 30) for n in range(ROWS)])
        connection.commit()
    return path


@contextlib.contextmanager
def open_transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """Change rows inside the `with` block without a commit, with so small a cache that the file has them already."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 2")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE notes SET text = ?", ("never said " * 30,))
        assert b"never said" in path.read_bytes()
        yield connection


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with open_foreign_database(path, lambda: path.open("rb"), path) as connection:
        yield connection


def counts(path: Path) -> dict[str, int]:
    """Return the number of rows by their first word."""
    query = "SELECT substr(text, 1, instr(text, ' ') - 1), COUNT(*) FROM notes GROUP BY 1"
    with opened(path) as connection:
        return {word: count for word, count in connection.execute(query)}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_rows_that_were_never_committed_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "notes.db")
    (tmp_path / "killed").mkdir()
    with open_transaction(path):
        for file in (path, log_files(path)[1]):
            shutil.copy(file, tmp_path / "killed")
        assert counts(path) == {"committed": ROWS}
    before = contents(tmp_path / "killed")
    assert sorted(before) == ["notes.db", "notes.db-journal"]
    assert counts(tmp_path / "killed" / "notes.db") == {"committed": ROWS}
    assert contents(tmp_path / "killed") == before


def test_a_file_that_a_journal_names_is_not_deleted(tmp_path: Path) -> None:
    path, victim = write(tmp_path / "notes.db"), tmp_path / "victim"
    victim.touch()
    with open_transaction(path):
        hostile = Path(shutil.copy(path, tmp_path / "hostile.db"))
        journal = log_files(path)[1].read_bytes()
    name = str(victim).encode()
    ending = struct.pack(">II", len(name), sum(name)) + b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
    log_files(hostile)[1].write_bytes(journal + struct.pack(">I", 2**30 // 512 + 1) + name + ending)
    assert counts(hostile) == {"committed": ROWS}
    assert victim.exists()


def test_what_only_the_write_ahead_log_has_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "notes.db")
    (tmp_path / "link.db").symlink_to(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as program:
        program.execute("PRAGMA journal_mode = WAL")
        program.execute("UPDATE notes SET text = 'logged text' WHERE id < 10")
        before = contents(tmp_path)
        assert counts(path) == counts(tmp_path / "link.db") == {"committed": ROWS - 10, "logged": 10}
        assert contents(tmp_path) == before


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_copy_has_no_name_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    path = write(tmp_path / "notes.db")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as program:
        program.execute(f"PRAGMA journal_mode = {mode}")
        program.execute("BEGIN IMMEDIATE")
        program.execute("UPDATE notes SET text = 'a new text'")
        with open_foreign_database(None, lambda: path.open("rb"), path) as connection:
            assert not list((tmp_path / "temporary").iterdir())
            assert len(connection.execute("SELECT * FROM notes ORDER BY text").fetchall()) == ROWS


def test_a_database_that_changes_while_it_is_copied_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "notes.db")
    log_files(path)[0].write_bytes(b"x")
    copyfile, sizes = shutil.copyfile, iter(range(2, 100))

    def changing(source: Path, target: Path) -> None:
        copyfile(source, target)
        log_files(path)[0].write_bytes(b"x" * next(sizes))

    monkeypatch.setattr(shutil, "copyfile", changing)
    with pytest.raises(UserError, match=r"notes\.db: is being written; close the program") as raised, opened(path):
        pass
    assert raised.value.where == str(path)


def test_a_table_that_needs_an_extension_does_not_cost_the_others(tmp_path: Path) -> None:
    path = write(tmp_path / "notes.db")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        row = ("table", "vectors", "vectors", 0, UNKNOWN_MODULE)
        connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", row)
        connection.commit()
    with opened(path) as connection:
        assert column_names(connection) == {"notes.id", "notes.text"}
    with (
        pytest.raises(UserError, match="needs an extension of SQLite; check which program"),
        opened(path) as connection,
    ):
        connection.execute("SELECT * FROM vectors")


def test_a_damaged_database_is_named_without_quoting_it(tmp_path: Path) -> None:
    path = write(tmp_path / "notes.db")
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE notes", b"CREATE \xffRIVATE notes"))
    with pytest.raises(UserError) as raised, opened(path):
        pass
    hint = "copy or export it again while the program that writes it is closed"
    assert raised.value.line() == f"{path}: cannot be read as a database: it is damaged; {hint}"


CHATS = """
CREATE TABLE chats (id TEXT PRIMARY KEY, title TEXT, created_at TIMESTAMP);
CREATE TABLE messages (id INTEGER PRIMARY KEY, chat_id TEXT, role TEXT, content TEXT, model_name TEXT);
CREATE INDEX chat ON messages (chat_id);
INSERT INTO chats VALUES ('c1', 'Pears', NULL), ('c2', 'Plums', NULL);
INSERT INTO messages VALUES (1, 'c1', 'user', 'Which pear keeps?', NULL), (2, 'c1', 'assistant', 'The winter.', 's');
INSERT INTO messages VALUES (3, 'c2', 'user', 'And plums?', NULL);
"""


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a database of the Ollama app."""
    path = tmp_path_factory.mktemp("chats") / "chats.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA page_size = 512")
        connection.executescript(CHATS)
    return path.read_bytes()


def test_damage_in_a_table_ends_the_reading_of_both(tmp_path: Path, chats: bytes) -> None:
    path = tmp_path / "chats.db"
    path.write_bytes(chats)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        [root] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'chat'").fetchone()
    path.write_bytes(chats[: 512 * (root - 1)] + b"\xff" * 512 + chats[512 * root :])
    with pytest.raises(UserError, match="it is damaged"):
        list(read_imports(path))
    gc.collect()  # a cursor that is left open is reported when it is deleted


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=10), st.none() | st.integers(16, 4096))
def test_damage_of_any_kind_is_a_user_error(
    tmp_path: Path, chats: bytes, changes: list[tuple[int, int]], kept_bytes: int | None
) -> None:
    path = tmp_path / "chats.db"
    data = bytearray(chats)
    for position, value in changes:
        data[position % len(data)] = value
    path.write_bytes(data[:kept_bytes])
    for name in (None, "ollama-app"):
        try:
            list(read_imports(path, name))
        except UserError as error:
            assert "\n" not in error.line()
