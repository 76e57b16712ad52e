"""What a profile remembers, as methods: each is one query or one transaction. No rule of the loop is decided here."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.profile.migrations import MIGRATIONS
from mlx_personal.profile.records import AdapterRow, AnnotationRow, BinRow, DialogueRow, RunRow, SyntheticRow
from mlx_personal.storage.database import Database, DatabaseSchema, now, peek
from mlx_personal.storage.files import remove_partials

# Dialogues are decided in the order of the stream: all up to this one, and none after. By its end, not by a search for
# what has no decision, so that a dialogue takes no longer after a hundred thousand others.
_LAST_DECIDED = "(SELECT coalesce(max(dialogue_id), 0) FROM decisions)"


PROFILE = DatabaseSchema(
    "profile", "profile.db", MIGRATIONS, "name another --profile", "set MLX_PERSONAL_HOME elsewhere"
)


def holds_profile(folder: Path) -> bool:
    """Whether `folder` holds a whole profile, of any version: a full disk can leave one without a model, or less."""
    path = folder / PROFILE.file
    if not path.exists():
        return False
    version = peek(path, "PRAGMA user_version")
    if version is None or version[0] == 0:
        return False
    return peek(path, "SELECT 1 FROM meta WHERE key = 'model'") is not None


class Store:
    """One profile's memory. `write=False` reads only and needs no lock."""

    def __init__(self, folder: Path, write: bool = True):
        self.folder = folder
        self.database = Database(folder, write, PROFILE)
        if write:
            remove_partials(folder / "adapters")

    def close(self) -> None:
        self.database.close()

    # The stream

    def add_dialogues(self, dialogues: Iterable[Dialogue], source: str, adapter_id: int | None = None) -> int:
        """Appends the dialogues that are not in the stream yet; returns how many were new."""
        with self.database.transaction() as connection:
            cursor = connection.executemany(
                "INSERT OR IGNORE INTO dialogues (key, messages, source, adapter_id, received_at)"
                " VALUES (?, ?, ?, ?, ?)",
                ((d.key, _dump(d), source, adapter_id, now()) for d in dialogues),
            )
            return cursor.rowcount

    def received(self) -> int:
        """How many dialogues the stream has brought so far."""
        return self.database.scalar("SELECT count(*) FROM dialogues")

    def dialogue(self, dialogue_id: int) -> DialogueRow | None:
        row = self.database.row("SELECT * FROM dialogues WHERE id = ?", dialogue_id)
        return None if row is None else _dialogue(row)

    def dialogues(self) -> list[DialogueRow]:
        """The whole stream, in order."""
        return [_dialogue(row) for row in self.database.rows("SELECT * FROM dialogues ORDER BY id")]

    def unscored(self, limit: int) -> list[DialogueRow]:
        """The first dialogues of the stream that selection has not seen yet."""
        query = f"SELECT * FROM dialogues WHERE id > {_LAST_DECIDED} ORDER BY id LIMIT ?"
        return [_dialogue(row) for row in self.database.rows(query, limit)]

    def unscored_count(self) -> int:
        return self.database.scalar(f"SELECT count(*) FROM dialogues WHERE id > {_LAST_DECIDED}")

    # Selection

    def add_decision(
        self,
        dialogue_id: int,
        action: str,
        domain: str,
        scores: tuple[float, float, float],
        slot: int | None,
        replaced_id: int | None,
        detail: dict[str, Any],
    ) -> None:
        """What selection decided, with (EOE, DSS, IDD) and all that explains it."""
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (dialogue_id, action, domain, *scores, slot, replaced_id, json.dumps(detail), now()),
            )

    def decision(self, dialogue_id: int) -> sqlite3.Row | None:
        return self.database.row("SELECT * FROM decisions WHERE dialogue_id = ?", dialogue_id)

    def put_bin(self, slot: int, dialogue_id: int, vector: np.ndarray, eoe: float, idd: float) -> None:
        """Fills a bin, or replaces what it holds."""
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO bins VALUES (?, ?, ?, ?, ?)",
                (slot, dialogue_id, vector.astype("<f4").tobytes(), eoe, idd),
            )

    def bins(self) -> list[BinRow]:
        query = "SELECT bins.*, messages FROM bins JOIN dialogues ON dialogues.id = dialogue_id ORDER BY slot"
        return [
            BinRow(
                slot=row["slot"],
                dialogue_id=row["dialogue_id"],
                dialogue=_load(row["messages"]),
                vector=_vector(row["vector"]),
                eoe=row["eoe"],
                idd=row["idd"],
            )
            for row in self.database.rows(query)
        ]

    def action_counts(self) -> dict[str, int]:
        """How many dialogues met each decision."""
        return {row[0]: row[1] for row in self.database.rows("SELECT action, count(*) FROM decisions GROUP BY action")}

    def entropies(self) -> list[float]:
        """EOE of every dialogue that was decided on, in the stream's order, refused near-duplicates left out."""
        query = "SELECT eoe FROM decisions WHERE action != 'duplicate' ORDER BY dialogue_id"
        return [row["eoe"] for row in self.database.rows(query)]

    def changed_bins(self, after: int) -> int:
        """How many bins were filled or replaced, once or often, by dialogues with an id above `after`."""
        return self.database.scalar("SELECT count(DISTINCT slot) FROM decisions WHERE dialogue_id > ?", after)

    # Annotation

    def add_annotation(
        self, dialogue_id: int, verdict: str, preferred: Dialogue | None, near_duplicates: int, held_out: bool
    ) -> int:
        """Records a verdict, in place of an earlier one on the same dialogue; returns its id."""
        with self.database.transaction() as connection:
            query = "SELECT id FROM annotations WHERE dialogue_id = ? AND undone = 0"
            standing = self.database.row(query, dialogue_id)
            replaces = None if standing is None else standing["id"]
            connection.execute("UPDATE annotations SET undone = 1 WHERE id = ?", (replaces,))
            cursor = connection.execute(
                "INSERT INTO annotations"
                " (dialogue_id, verdict, messages, near_duplicates, held_out, replaces, asked_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    dialogue_id,
                    verdict,
                    None if preferred is None else _dump(preferred),
                    near_duplicates,
                    held_out,
                    replaces,
                    now(),
                ),
            )
        return int(cursor.lastrowid or 0)

    def undo_annotation(self) -> int | None:
        """Takes the last verdict back, and lets an earlier one on the same dialogue stand again.

        Returns the dialogue's id, or None if there is no verdict.
        """
        with self.database.transaction() as connection:
            row = self.database.row("SELECT * FROM annotations WHERE undone = 0 ORDER BY id DESC LIMIT 1")
            if row is None:
                return None
            connection.execute("UPDATE annotations SET undone = 1 WHERE id = ?", (row["id"],))
            if row["replaces"] is not None:
                connection.execute("UPDATE annotations SET undone = 0 WHERE id = ?", (row["replaces"],))
        return int(row["dialogue_id"])

    def annotations(self, undone: bool = False) -> list[AnnotationRow]:
        """The verdicts that stand, in order; with `undone` also those taken back or given anew."""
        query = "SELECT * FROM annotations WHERE undone <= ? ORDER BY id"
        return [
            AnnotationRow(
                id=row["id"],
                dialogue_id=row["dialogue_id"],
                verdict=row["verdict"],
                preferred=None if row["messages"] is None else _load(row["messages"]),
                near_duplicates=row["near_duplicates"],
                held_out=bool(row["held_out"]),
                asked_at=row["asked_at"],
            )
            for row in self.database.rows(query, int(undone))
        ]

    def last_ids(self) -> dict[str, int]:
        """Up to where the stream is decided on and annotated: what a training run has seen."""
        return {
            "last_dialogue": self.database.scalar("SELECT max(dialogue_id) FROM decisions"),
            "last_annotation": self.database.scalar("SELECT max(id) FROM annotations"),
        }

    def preferred(self, held_out: bool) -> list[AnnotationRow]:
        """The standing annotations with a preferred answer, on one side of the split."""
        return [a for a in self.annotations() if a.preferred is not None and a.held_out == held_out]

    # Runs, synthetic sets, training rows, adapters

    def begin_run(self, kind: str, model: str, config: dict[str, Any]) -> int:
        with self.database.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO runs (kind, model, config, received, started_at) VALUES (?, ?, ?, ?, ?)",
                (kind, model, json.dumps(config), self.received(), now()),
            )
        return int(cursor.lastrowid or 0)

    def finish_run(self, run_id: int, result: dict[str, Any]) -> None:
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE runs SET finished_at = ?, result = ? WHERE id = ?", (now(), json.dumps(result), run_id)
            )

    def last_run(self, kind: str, model: str | None = None) -> RunRow | None:
        """The latest finished run of a kind, on any base model or on the one of this fingerprint."""
        return self._run(
            "kind = ? AND model = coalesce(?, model) AND finished_at IS NOT NULL ORDER BY id DESC LIMIT 1", kind, model
        )

    def unfinished_run(self, kind: str, model: str) -> RunRow | None:
        """The latest run of a kind on the base of this fingerprint, if it has not finished."""
        run = self._run("kind = ? AND model = ? ORDER BY id DESC LIMIT 1", kind, model)
        return run if run is not None and run.finished_at is None else None

    def run(self, run_id: int) -> RunRow | None:
        """The run of this number, if there is one."""
        return self._run("id = ?", run_id)

    def _run(self, which: str, *values: object) -> RunRow | None:
        row = self.database.row(f"SELECT * FROM runs WHERE {which}", *values)
        if row is None:
            return None
        result = None if row["result"] is None else json.loads(row["result"])
        return RunRow(**{**dict(row), "config": json.loads(row["config"]), "result": result})

    def add_synthetic(
        self, run_id: int, rows: Iterable[tuple[int, Dialogue | None, str, float | None, bool, str]]
    ) -> None:
        """Rows of (annotation id, dialogue, raw text, ROUGE-1, kept, reason); they replace those of earlier runs."""
        values = [(run_id, a, None if d is None else _dump(d), raw, r, kept, why) for a, d, raw, r, kept, why in rows]
        with self.database.transaction() as connection:
            connection.executemany(
                "INSERT INTO synthetic (run_id, annotation_id, messages, raw, rouge1, kept, reason)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            )

    def synthetic(self) -> list[SyntheticRow]:
        """For every standing annotation, what the latest synthesis that covered it wrote."""
        query = (
            "SELECT synthetic.* FROM synthetic JOIN annotations ON annotations.id = annotation_id AND undone = 0"
            " WHERE run_id = (SELECT max(run_id) FROM synthetic AS s WHERE s.annotation_id = synthetic.annotation_id)"
            " ORDER BY synthetic.id"
        )
        return [
            SyntheticRow(
                id=row["id"],
                run_id=row["run_id"],
                annotation_id=row["annotation_id"],
                dialogue=None if row["messages"] is None else _load(row["messages"]),
                rouge1=row["rouge1"],
                kept=bool(row["kept"]),
                reason=row["reason"],
            )
            for row in self.database.rows(query)
        ]

    def add_training_rows(self, run_id: int, rows: Sequence[tuple[int, int | None]]) -> None:
        """Rows of (annotation id, synthetic id or None for the annotated dialogue itself)."""
        with self.database.transaction() as connection:
            connection.executemany(
                "INSERT INTO training_rows VALUES (?, ?, ?, ?)", ((run_id, i, *row) for i, row in enumerate(rows))
            )

    def training_sources(self, run_id: int) -> list[sqlite3.Row]:
        """Each training row of a run with what it comes from: (position, dialogue_id, annotation_id, synthetic_id)."""
        return self.database.rows(
            "SELECT position, dialogue_id, annotation_id, synthetic_id FROM training_rows"
            " JOIN annotations ON annotations.id = annotation_id WHERE run_id = ? ORDER BY position",
            run_id,
        )

    def add_adapter(self, run_id: int, folder: str, model: str) -> int:
        with self.database.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO adapters (run_id, folder, model, created_at) VALUES (?, ?, ?, ?)",
                (run_id, folder, model, now()),
            )
        return int(cursor.lastrowid or 0)

    def set_evaluation(self, adapter_id: int, evaluation: dict[str, Any]) -> None:
        with self.database.transaction() as connection:
            connection.execute("UPDATE adapters SET evaluation = ? WHERE id = ?", (json.dumps(evaluation), adapter_id))

    def promote(self, adapter_id: int | None) -> None:
        """Lets this adapter answer from now on; None is the base model."""
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT INTO promotions (model, adapter_id, promoted_at) VALUES (?, ?, ?)",
                (self.fingerprint(), adapter_id, now()),
            )

    def undo_promotion(self) -> None:
        """Lets what answered before the last promotion on the present base answer again."""
        with self.database.transaction() as connection:
            query = "DELETE FROM promotions WHERE id = (SELECT max(id) FROM promotions WHERE model = ?)"
            connection.execute(query, (self.fingerprint(),))

    def promotions(self) -> list[int | None]:
        """Which adapter answered on the present base, in order; the last one still does."""
        query = "SELECT adapter_id FROM promotions WHERE model = ? ORDER BY id"
        return [row[0] for row in self.database.rows(query, self.fingerprint())]

    def adapters(self) -> list[AdapterRow]:
        promoted = (self.promotions() or [None])[-1]
        return [
            AdapterRow(
                **{**dict(row), "evaluation": None if row["evaluation"] is None else json.loads(row["evaluation"])},
                promoted=row["id"] == promoted,
            )
            for row in self.database.rows("SELECT * FROM adapters ORDER BY id")
        ]

    # Settings that the program, not the owner, keeps

    def fingerprint(self) -> str:
        """Of the present base model's weights; empty before one is chosen."""
        return self.meta("fingerprint") or ""

    def meta(self, key: str) -> str | None:
        row = self.database.row("SELECT value FROM meta WHERE key = ?", key)
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        with self.database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _dump(dialogue: Dialogue) -> str:
    return json.dumps(dialogue.to_messages(), ensure_ascii=False)


def _load(messages: str) -> Dialogue:
    try:
        return Dialogue.from_messages(json.loads(messages))
    except ValueError as error:
        raise _damaged() from error


def _vector(blob: bytes) -> np.ndarray:
    try:
        return np.frombuffer(blob, "<f4").astype(np.float32)
    except ValueError as error:
        raise _damaged() from error


def _damaged() -> UserError:
    return UserError("the profile's database is damaged", hint="restore it from a backup, or use another --profile")


def _dialogue(row: sqlite3.Row) -> DialogueRow:
    return DialogueRow(row["id"], _load(row["messages"]), row["source"], row["adapter_id"], row["received_at"])
