"""Take back an import: its dialogues, and everything that was made of them.

A dialogue to which another import added turns is kept. One that another import had too, without adding anything, goes
with the first: only what an import adds is stored, not which known turns its export had. Trained adapters stay, because
what they learned cannot be taken out of their weights.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from dataclasses import dataclass
from typing import Final

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import Action, UserError
from mlx_personal.profile.imports import OriginRow
from mlx_personal.profile.records import dump_dialogue
from mlx_personal.profile.store import Store
from mlx_personal.storage.database import utc_now

# Key in the result of a training run for what was taken back of its data.
_TAKEN_BACK: Final = "taken_back"
# That a dialogue loses turns with an import: that it brought the last ones.
_CHANGES: Final = (
    "EXISTS (SELECT 1 FROM origins AS o WHERE o.dialogue_id = {table}.dialogue_id AND o.import_id = ?1 AND NOT EXISTS"
    " (SELECT 1 FROM origins AS later WHERE later.dialogue_id = o.dialogue_id AND later.import_id > o.import_id))"
)
# That an annotation was accepted without asking, by verdicts of an import that did not bring its dialogue, and of no
# other import.
_INFERRED: Final = (
    "undone = 0 AND origin = 'inferred'"
    " AND EXISTS (SELECT 1 FROM inferred_verdicts AS v WHERE v.dialogue_id = a.dialogue_id AND import_id = ?1)"
    " AND NOT EXISTS (SELECT 1 FROM inferred_verdicts AS v WHERE v.dialogue_id = a.dialogue_id AND import_id != ?1)"
    " AND NOT EXISTS (SELECT 1 FROM origins AS o WHERE o.dialogue_id = a.dialogue_id AND import_id = ?1)"
)
_DELETED: Final = "(SELECT id FROM temp.deleted)"
_DELETED_ANNOTATIONS: Final = f"(SELECT id FROM annotations WHERE dialogue_id IN {_DELETED})"


@dataclass(frozen=True)
class ImportDependents:
    """What was made of the dialogues of an import.

    Attributes:
        dialogues: Number of dialogues that lose all or some of their turns.
        selected: Number of these that are in the buffer.
        verdicts: Number of verdicts on them, and of those on other dialogues that follow from this import only.
        synthetic: Number of synthetic dialogues of these verdicts.
        adapters: Ids of the adapters that were trained on them or on these verdicts.
    """

    dialogues: int
    selected: int
    verdicts: int
    synthetic: int
    adapters: tuple[int, ...]


@dataclass(frozen=True)
class TakenBackSamples:
    """What an adapter was trained on, and is no longer in the profile, because its import was taken back.

    Attributes:
        samples: Number of samples.
        synthetic: Number of these that are synthetic dialogues.
        dialogues: Number of annotated dialogues that they come from.
    """

    samples: int = 0
    synthetic: int = 0
    dialogues: int = 0


@dataclass(frozen=True)
class UndoneImport:
    """The result of taking back an import.

    Attributes:
        deleted: Number of dialogues that were deleted.
        shortened: Number of dialogues that lost the turns of this import and kept those of an earlier one.
        freed_bins: Number of bins of the buffer that became free.
    """

    deleted: int
    shortened: int
    freed_bins: int


def import_dependents(store: Store, import_id: int) -> ImportDependents:
    """Return what was made of the dialogues of an import.

    Args:
        store: The profile's store.
        import_id: The import.
    """
    annotations = f"(SELECT id FROM annotations AS a WHERE {_CHANGES.format(table='a')} OR {_INFERRED})"

    adapters = store.database.fetch_all(
        f"SELECT id FROM adapters WHERE run_id IN (SELECT run_id FROM training_rows WHERE annotation_id IN"
        f" {annotations}) ORDER BY id",
        import_id,
    )
    continued = store.database.fetch_int(
        "SELECT count(DISTINCT later.dialogue_id) FROM origins AS later JOIN origins AS own"
        " ON own.dialogue_id = later.dialogue_id AND own.import_id = ?1 WHERE later.import_id > ?1",
        import_id,
    )
    return ImportDependents(
        dialogues=store.imports.dialogue_count(import_id) - continued,
        selected=store.database.fetch_int(
            f"SELECT count(*) FROM bins WHERE {_CHANGES.format(table='bins')}", import_id
        ),
        verdicts=store.database.fetch_int(
            f"SELECT count(*) FROM annotations WHERE undone = 0 AND id IN {annotations}", import_id
        ),
        synthetic=store.database.fetch_int(
            f"SELECT count(*) FROM synthetic WHERE annotation_id IN {annotations}", import_id
        ),
        adapters=tuple(row["id"] for row in adapters),
    )


def undo_import(store: Store, import_id: int) -> UndoneImport:
    """Take back an import in one transaction.

    Its dialogues are deleted with their decisions, bins, verdicts, synthetic dialogues and training rows. Bins that
    become free are filled by later dialogues. A dialogue that the import continued loses these turns; if it was scored
    with them, it joins the stream again at its end. Verdicts on other dialogues that were accepted without asking, by
    what only this import had about them, are undone.

    Args:
        store: The profile's store.
        import_id: The import.

    Raises:
        UserError: If there is no such import, or it was taken back before.
    """
    batch = store.imports.get(import_id)
    if batch.undone_at is not None:
        raise UserError(f"import {import_id} was already taken back", remedy=Action.LIST_IMPORTS)
    shortened = 0
    with store.transaction() as connection:
        before = store.dialogue_count()
        for dialogue_id in _shared_dialogues(store, import_id):
            origins = store.imports.origins(dialogue_id)
            number = [origin.import_id for origin in origins].index(import_id)
            if number + 1 < len(origins):
                _hand_over(connection, origins[number], origins[number + 1])
            else:
                shortened += _shorten(store, connection, origins[number])
        connection.execute(f"UPDATE annotations AS a SET undone = 1 WHERE {_INFERRED}", (import_id,))
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS deleted (id INTEGER PRIMARY KEY)")
        connection.execute("DELETE FROM temp.deleted")
        query = "INSERT INTO temp.deleted SELECT dialogue_id FROM origins WHERE import_id = ?"
        connection.execute(query, (import_id,))
        freed_bins = _delete(connection)
        for table in ("inferred_verdicts", "preference_pairs"):
            connection.execute(f"DELETE FROM {table} WHERE import_id = ?", (import_id,))
        # Reasons name files, whose names may say what the conversations are about.
        summary = None if batch.summary is None else json.dumps({**batch.summary, "skipped": []})
        query = "UPDATE imports SET undone_at = ?, summary = ? WHERE id = ?"
        connection.execute(query, (utc_now(), summary, import_id))
        after = store.dialogue_count()
    return UndoneImport(before - after, shortened, freed_bins)


def taken_back_samples(store: Store, run_id: int) -> TakenBackSamples:
    """Return how much of what a training run used was taken back.

    Args:
        store: The profile's store.
        run_id: The training run.
    """
    run = store.run(run_id)
    result = {} if run is None or run.result is None else run.result
    return TakenBackSamples(**result.get(_TAKEN_BACK, {}))


def _shared_dialogues(store: Store, import_id: int) -> list[int]:
    """Return the dialogues of which another import brought turns too."""
    rows = store.database.fetch_all(
        "SELECT dialogue_id FROM origins AS o WHERE import_id = ? AND EXISTS"
        " (SELECT 1 FROM origins AS other WHERE other.dialogue_id = o.dialogue_id AND other.import_id != o.import_id)",
        import_id,
    )
    return [row["dialogue_id"] for row in rows]


def _hand_over(connection: sqlite3.Connection, origin: OriginRow, heir: OriginRow) -> None:
    """Let a later import, which had the same turns and further ones, be the one that brought them."""
    connection.execute(
        "UPDATE origins SET position = ? WHERE dialogue_id = ? AND import_id = ?",
        (origin.origin.position, heir.dialogue_id, heir.import_id),
    )
    for table in ("inferred_verdicts", "preference_pairs"):
        query = f"UPDATE {table} SET import_id = ? WHERE dialogue_id = ? AND import_id = ?"
        connection.execute(query, (heir.import_id, origin.dialogue_id, origin.import_id))
    _delete_origin(connection, origin)


def _shorten(store: Store, connection: sqlite3.Connection, origin: OriginRow) -> bool:
    """Take the last turns from a dialogue, and return whether the rest is kept.

    It is not if the stream has the same dialogue from elsewhere. What is not kept still has its origin, and is deleted
    with all others of the import.
    """
    row = store.dialogue(origin.dialogue_id)
    if row is None:
        return False
    dialogue = Dialogue(row.dialogue.messages[: origin.origin.position])
    values = (dialogue.key, dump_dialogue(dialogue))
    if store.decision(row.id) is None:
        query = "UPDATE OR IGNORE dialogues SET key = ?, messages = ? WHERE id = ?"
        if not connection.execute(query, (*values, row.id)).rowcount:
            return False
        _delete_origin(connection, origin)
        query = "DELETE FROM exchanges WHERE dialogue_id = ? AND answer >= ?"
        connection.execute(query, (row.id, len(dialogue.turn_indices)))
        return True
    cursor = connection.execute(
        "INSERT OR IGNORE INTO dialogues (key, messages, source, received_at) VALUES (?, ?, ?, ?)",
        (*values, row.source, row.received_at),
    )
    if not cursor.rowcount:
        return False
    for table in ("origins", "inferred_verdicts", "preference_pairs"):
        query = f"UPDATE {table} SET dialogue_id = ? WHERE dialogue_id = ? AND import_id != ?"
        connection.execute(query, (cursor.lastrowid, row.id, origin.import_id))
    query = "UPDATE exchanges SET dialogue_id = ? WHERE dialogue_id = ? AND answer < ?"
    connection.execute(query, (cursor.lastrowid, row.id, len(dialogue.turn_indices)))
    return True


def _delete_origin(connection: sqlite3.Connection, origin: OriginRow) -> None:
    query = "DELETE FROM origins WHERE dialogue_id = ? AND import_id = ?"
    connection.execute(query, (origin.dialogue_id, origin.import_id))


def _delete(connection: sqlite3.Connection) -> int:
    """Delete the dialogues of the temporary table with all that refers to them, and return the number of their bins."""
    # Without any of its rows, an interrupted training run is started again instead of resumed.
    connection.execute(
        "DELETE FROM training_rows WHERE run_id IN (SELECT run_id FROM training_rows JOIN runs ON runs.id = run_id"
        f" WHERE finished_at IS NULL AND annotation_id IN {_DELETED_ANNOTATIONS})"
    )
    _count_taken_back(connection)
    for table in ("training_rows", "synthetic"):
        connection.execute(f"DELETE FROM {table} WHERE annotation_id IN {_DELETED_ANNOTATIONS}")
    connection.execute(f"UPDATE decisions SET replaced_id = NULL WHERE replaced_id IN {_DELETED}")
    freed_bins = connection.execute(f"DELETE FROM bins WHERE dialogue_id IN {_DELETED}").rowcount
    for table in ("annotations", "decisions", "inferred_verdicts", "preference_pairs", "origins", "exchanges"):
        connection.execute(f"DELETE FROM {table} WHERE dialogue_id IN {_DELETED}")
    connection.execute(f"DELETE FROM dialogues WHERE id IN {_DELETED}")
    return freed_bins


def _count_taken_back(connection: sqlite3.Connection) -> None:
    """Add the rows of finished training runs that are about to be deleted to the results of these runs."""
    rows = connection.execute(
        "SELECT run_id, result, count(*), count(training_rows.synthetic_id), count(DISTINCT dialogue_id)"
        " FROM training_rows JOIN annotations ON annotations.id = annotation_id JOIN runs ON runs.id = run_id"
        f" WHERE annotation_id IN {_DELETED_ANNOTATIONS} AND result IS NOT NULL GROUP BY run_id"
    ).fetchall()
    for run_id, result, *counts in rows:
        values = json.loads(result)
        before = dataclasses.astuple(TakenBackSamples(**values.get(_TAKEN_BACK, {})))
        sums = TakenBackSamples(*(one + other for one, other in zip(before, counts, strict=True)))
        values[_TAKEN_BACK] = dataclasses.asdict(sums)
        connection.execute("UPDATE runs SET result = ? WHERE id = ?", (json.dumps(values), run_id))
