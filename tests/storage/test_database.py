"""SQLite databases: migrations, transactions, the lock, and failures as one-line errors."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import pytest

from mlx_personal.errors import Action, UserError
from mlx_personal.storage.database import Database, DatabaseSchema, check_database_folder, read_one_row

SCHEMA = DatabaseSchema(
    kind="notebook",
    file_name="notes.db",
    migrations=("CREATE TABLE notes (text TEXT)", "ALTER TABLE notes ADD COLUMN color TEXT"),
    busy_hint="use another notebook",
    access_hint="move the notebook",
)


def add_note(database: Database, text: str) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO notes (text) VALUES (?)", (text,))


def test_a_database_is_created_and_read(tmp_path: Path) -> None:
    database = Database(tmp_path / "new", True, SCHEMA)
    assert database.fetch_one("SELECT * FROM notes") is None
    assert database.fetch_int("SELECT max(rowid) FROM notes") == 0
    add_note(database, "a")
    add_note(database, "b")
    database.close()
    assert database.path.stat().st_mode & 0o777 == 0o600
    database = Database(tmp_path / "new", False, SCHEMA)
    assert [tuple(row) for row in database.fetch_all("SELECT text, color FROM notes")] == [("a", None), ("b", None)]
    assert database.fetch_int("SELECT count(*) FROM notes WHERE text = ?", "a") == 1
    row = database.fetch_one("SELECT text FROM notes WHERE text > ?", "a")
    assert row is not None and row["text"] == "b"
    database.close()


def test_migrations_are_applied_once_by_a_writer_or_a_reader(tmp_path: Path) -> None:
    first = dataclasses.replace(SCHEMA, migrations=SCHEMA.migrations[:1])
    database = Database(tmp_path, True, first)
    add_note(database, "a")
    database.close()
    for write in (False, True, False):
        database = Database(tmp_path, write, SCHEMA)
        assert database.fetch_int("PRAGMA user_version") == 2
        assert [tuple(row) for row in database.fetch_all("SELECT text, color FROM notes")] == [("a", None)]
        database.close()
    with pytest.raises(UserError, match="this notebook was written by a newer mlx-personal; upgrade"):
        Database(tmp_path, False, first)
    row = read_one_row(tmp_path / "notes.db", "PRAGMA user_version")
    assert row is not None and row[0] == 2


def test_a_failed_migration_changes_nothing(tmp_path: Path) -> None:
    Database(tmp_path, True, SCHEMA).close()
    broken = dataclasses.replace(SCHEMA, migrations=(*SCHEMA.migrations, "CREATE TABLE more (x); SELECT nothing"))
    with pytest.raises(UserError, match="the notebook's database failed"):
        Database(tmp_path, True, broken)
    database = Database(tmp_path, True, SCHEMA)
    assert database.fetch_one("SELECT 1 FROM sqlite_master WHERE name = 'more'") is None
    database.close()


def test_a_transaction_applies_all_changes_or_none(tmp_path: Path) -> None:
    database = Database(tmp_path, True, SCHEMA)
    with pytest.raises(ZeroDivisionError), database.transaction():
        add_note(database, "a")  # A nested block belongs to the outer transaction.
        raise ZeroDivisionError
    assert database.fetch_int("SELECT count(*) FROM notes") == 0
    with database.transaction():
        add_note(database, "b")
    assert database.fetch_int("SELECT count(*) FROM notes") == 1
    with (
        pytest.raises(UserError, match="the notebook's database failed") as raised,
        database.transaction() as connection,
    ):
        connection.execute("INSERT INTO missing VALUES (1)")
    assert isinstance(raised.value.__cause__, sqlite3.Error) and "\n" not in str(raised.value)
    database.close()


def test_a_second_writer_fails_at_once_and_readers_do_not(tmp_path: Path) -> None:
    writer = Database(tmp_path, True, SCHEMA)
    with pytest.raises(UserError, match=r"in use by another process \(pid \d+\); wait for it, or use another notebook"):
        Database(tmp_path, True, SCHEMA)
    Database(tmp_path, False, SCHEMA).close()
    writer.close()
    Database(tmp_path, True, SCHEMA).close()


def test_a_folder_is_checked_before_it_is_opened(tmp_path: Path) -> None:
    check_database_folder(tmp_path / "new", SCHEMA, write=True, remedy="write a note")
    with pytest.raises(UserError, match="there is no notebook here; write a note"):
        check_database_folder(tmp_path, SCHEMA, write=False, remedy="write a note")
    with pytest.raises(UserError, match="there is no notebook here") as raised:
        check_database_folder(tmp_path, SCHEMA, write=False, remedy=Action.RUN_STUDY)
    assert raised.value.remedy is not None and raised.value.remedy.action == Action.RUN_STUDY
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="is a file; a notebook is a folder"):
        check_database_folder(file, SCHEMA, write=True, remedy="write a note")


def test_a_file_that_is_no_database_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database" * 100)
    with pytest.raises(UserError, match="the notebook's database is damaged; restore it from a backup"):
        Database(tmp_path, False, SCHEMA)
    with pytest.raises(UserError, match="the profile's database is damaged"):
        read_one_row(tmp_path / "notes.db", "PRAGMA user_version")
