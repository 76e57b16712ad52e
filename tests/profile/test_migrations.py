"""A profile of an earlier version is migrated, with all that it contains."""

import contextlib
import dataclasses
import sqlite3
from pathlib import Path

import pytest

from mlx_personal.dialogue import Dialogue
from mlx_personal.personalizer.importing import import_paths
from mlx_personal.profile import Store
from mlx_personal.profile.migrations import MIGRATIONS
from mlx_personal.profile.records import dump_dialogue
from mlx_personal.profile.store import PROFILE
from mlx_personal.storage.database import Database
from tests.support.imports import write_lines

_DIALOGUE = Dialogue.of("How long do eggs boil?", "Seven minutes.")


def _profile_of_version(folder: Path, version: int) -> None:
    """Write a profile of an earlier version with an annotated dialogue."""
    database = Database(folder, True, dataclasses.replace(PROFILE, migrations=MIGRATIONS[:version]))
    time = "2026-10-01T12:00:00+00:00"
    with database.transaction() as connection:
        row = (_DIALOGUE.key, dump_dialogue(_DIALOGUE), "import:old.jsonl", time)
        connection.execute("INSERT INTO dialogues (key, messages, source, received_at) VALUES (?, ?, ?, ?)", row)
        connection.execute("INSERT INTO decisions VALUES (1, 'stored', 'food', 1, 1, 1, 0, NULL, '{}', ?)", (time,))
        connection.execute(
            "INSERT INTO annotations (dialogue_id, verdict, messages, near_duplicates, held_out, asked_at)"
            " VALUES (1, 'accept', ?, 1, 0, ?)",
            (dump_dialogue(_DIALOGUE), time),
        )
    database.close()


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_a_profile_of_an_earlier_version_keeps_its_dialogues_and_verdicts(tmp_path: Path, version: int) -> None:
    _profile_of_version(tmp_path, version)
    store = Store(tmp_path)
    with contextlib.closing(store):
        assert [row.dialogue for row in store.dialogues()] == [_DIALOGUE]
        assert store.action_counts() == {"stored": 1}
        assert [annotation.preferred for annotation in store.annotations()] == [_DIALOGUE]
        assert store.database.fetch_int("PRAGMA user_version") == len(MIGRATIONS)


def test_a_verdict_of_an_earlier_version_is_the_owners(tmp_path: Path) -> None:
    _profile_of_version(tmp_path, 2)
    with contextlib.closing(Store(tmp_path)) as store:
        assert [row["origin"] for row in store.database.fetch_all("SELECT origin FROM annotations")] == ["owner"]


def test_no_other_origin_of_a_verdict_can_be_stored(tmp_path: Path) -> None:
    _profile_of_version(tmp_path, 2)
    with contextlib.closing(Store(tmp_path)):
        pass
    with (
        contextlib.closing(sqlite3.connect(tmp_path / "profile.db")) as connection,
        pytest.raises(sqlite3.IntegrityError),
    ):
        connection.execute("UPDATE annotations SET origin = 'somebody'")


@pytest.mark.usefixtures("insecure_delete")
def test_exchanges_imported_by_an_earlier_version_are_known(tmp_path: Path) -> None:
    """They are those that the same import stores today, whatever it had in common, and it stores nothing again."""
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    longer = [*turns, {"role": "user", "content": "Soup?"}, {"role": "assistant", "content": "Slowly."}]
    system = [{"role": "system", "content": "Be brief."}]
    rows = [
        {"messages": turns, "conversation_id": "conversation-one"},
        {"messages": [*system, *longer], "conversation_id": "conversation-two"},
        {"messages": [*system, *turns]},
    ]
    export = write_lines(tmp_path / "rows.jsonl", rows)
    with contextlib.closing(Store(tmp_path / "new")) as store:
        import_paths(store, [export])
        dialogues = store.database.fetch_all("SELECT * FROM dialogues ORDER BY id")
        origins = store.database.fetch_all("SELECT * FROM origins ORDER BY dialogue_id")
        exchanges = [tuple(row) for row in store.database.fetch_all("SELECT * FROM exchanges ORDER BY 1, 2")]
    assert [(row[0], row[1]) for row in exchanges] == [(1, 0), (1, 1), (2, 0), (3, 0), (3, 1)]
    old = Database(tmp_path / "old", True, dataclasses.replace(PROFILE, migrations=MIGRATIONS[:5]))
    with old.transaction() as connection:
        connection.execute("INSERT INTO imports (paths, options, started_at) VALUES ('[]', '{}', '')")
        connection.executemany("INSERT INTO dialogues VALUES (?, ?, ?, ?, ?, ?)", map(tuple, dialogues))
        connection.executemany("INSERT INTO origins VALUES (?, ?, ?, ?, ?, ?, ?, ?, x'00')", map(tuple, origins))
        connection.execute("UPDATE origins SET title = 'a very particular title'")
        connection.execute("INSERT INTO dialogues VALUES (4, 'x', '[damaged', 'import:x', NULL, '')")
        connection.execute("INSERT INTO origins VALUES (4, 1, 'app', '', '', '', NULL, 0, x'00')")
        verdict = "(dialogue_id, import_id, answer, rating, source, evidence) VALUES (2, 1, 0, 'good', 'thumbs', '')"
        connection.execute(f"INSERT INTO inferred_verdicts {verdict}")
    old.close()
    with contextlib.closing(Store(tmp_path / "old")) as store:
        assert [tuple(row) for row in store.database.fetch_all("SELECT * FROM exchanges ORDER BY 1, 2")] == exchanges
        assert store.imports.has_verdict(2, 0, "good", "thumbs", "conversation-two")
        assert [row.origin.conversation_id for row in store.imports.origins(2)] == ["conversation-two"]
        assert import_paths(store, [export]).import_id is None
        assert store.database.fetch_all("PRAGMA foreign_key_check") == []
    data = (tmp_path / "old" / "profile.db").read_bytes()
    assert data.count(b"a very particular title") == len(origins), "none is left in the free pages of the file"


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half_done (id INTEGER)")
        raise ValueError("interrupted")

    _profile_of_version(tmp_path, 2)
    for _ in range(2):
        with pytest.raises(ValueError, match="interrupted"):
            Database(tmp_path, True, dataclasses.replace(PROFILE, migrations=(*MIGRATIONS[:2], fail)))
    database = Database(tmp_path, True, dataclasses.replace(PROFILE, migrations=MIGRATIONS[:2]))
    with contextlib.closing(database):
        assert database.fetch_int("PRAGMA user_version") == 2
        assert database.fetch_one("SELECT 1 FROM sqlite_master WHERE name = 'half_done'") is None
