"""A profile of an earlier version is migrated, with all that it contains."""

import contextlib
import dataclasses
import sqlite3
from pathlib import Path

import pytest

from mlx_personal.dialogue import Dialogue
from mlx_personal.profile import Store
from mlx_personal.profile.migrations import MIGRATIONS
from mlx_personal.profile.records import dump_dialogue
from mlx_personal.profile.store import PROFILE
from mlx_personal.storage.database import Database

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
