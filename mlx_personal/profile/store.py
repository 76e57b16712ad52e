"""The profile's database: each method is one query or one transaction, without any rules of the learning loop."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import Action, UserError
from mlx_personal.profile.exchanges import Exchanges
from mlx_personal.profile.imports import LAST_DECIDED, Imports
from mlx_personal.profile.inferred import OPEN_PROPOSALS, InferredVerdicts
from mlx_personal.profile.leftovers import remove_leftovers
from mlx_personal.profile.migrations import MIGRATIONS
from mlx_personal.profile.preference_pairs import PreferencePairs
from mlx_personal.profile.proposed_questions import ANSWERED_PROPOSALS, ProposedQuestions
from mlx_personal.profile.question_vectors import QuestionVectors
from mlx_personal.profile.records import (
    AdapterRow,
    AnnotationCounts,
    AnnotationRow,
    BinRow,
    DecisionRow,
    DialogueRow,
    NewSynthetic,
    RunRow,
    SyntheticRow,
    TrainingSource,
    dump_dialogue,
)
from mlx_personal.profile.stream_sample import StoredSample
from mlx_personal.profile.watched_folders import WatchedFolders
from mlx_personal.storage.database import Database, DatabaseSchema, read_one_row, utc_now
from mlx_personal.storage.files import remove_partials

PROFILE = DatabaseSchema("profile", "profile.db", MIGRATIONS, "use another profile", "set MLX_PERSONAL_HOME elsewhere")

# The stream: all dialogues but the answers to proposed questions.
_STREAM = f"dialogues WHERE id NOT IN {ANSWERED_PROPOSALS}"
# Current annotations that have a preferred answer.
_PREFERRED = "undone = 0 AND messages IS NOT NULL"
# Dialogues of the buffer and those whose verdict was undone, except those that have a current verdict.
_OPEN_QUESTIONS = (
    "SELECT dialogue_id FROM bins UNION SELECT dialogue_id FROM annotations"
    " EXCEPT SELECT dialogue_id FROM annotations WHERE undone = 0"
    " EXCEPT SELECT dialogue_id FROM proposed_questions"
)
# The synthetic dialogues of the latest synthesis run of every current annotation.
_LATEST_SYNTHETIC = (
    "synthetic JOIN annotations ON annotations.id = annotation_id AND undone = 0"
    " WHERE run_id = (SELECT max(run_id) FROM synthetic AS s WHERE s.annotation_id = synthetic.annotation_id)"
)


def is_profile(folder: Path) -> bool:
    """Return whether a folder is a complete profile of any version.

    A full disk can leave a profile without a base model, or without tables.

    Args:
        folder: The folder.
    """
    path = folder / PROFILE.file_name
    if not path.exists():
        return False
    version = read_one_row(path, "PRAGMA user_version")
    if version is None or version[0] == 0:
        return False
    return read_one_row(path, "SELECT 1 FROM meta WHERE key = 'model'") is not None


def check_profile_exists(folder: Path) -> None:
    """Check that a folder is a complete profile.

    Args:
        folder: The folder.

    Raises:
        UserError: If it is not.
    """
    if not is_profile(folder):
        raise UserError("there is no profile here yet", folder, remedy=Action.CREATE_PROFILE)


def base_model_of(folder: Path) -> str | None:
    """Return the name of a profile's base model, for a profile of any version; None if it has none.

    Args:
        folder: The profile's folder.

    Raises:
        UserError: If the database cannot be read.
    """
    row = read_one_row(folder / PROFILE.file_name, "SELECT value FROM meta WHERE key = 'model'")
    return None if row is None else str(row[0])


class Store:
    """The database of one profile.

    Args:
        folder: The profile's folder; created if it does not exist.
        write: Whether to write, which locks the profile. Reading needs no lock.

    Attributes:
        folder: The profile's folder.
        writes: Whether it was opened for writing.
        database: Its database.
        proposed: The questions that a model proposed.
        imports: The imports and what they brought.
        exchanges: The exchanges of imported dialogues.
        inferred: The dialogues with verdicts that follow from exports.
        pairs: The preference pairs of these.
        watched: The folders of other programs that are watched.
        question_vectors: The vectors of the questions of kept dialogues.
        sample: The sample of the stream that the selection policy covers.

    Raises:
        UserError: If the folder cannot be read or written, or another process is writing to it.
    """

    def __init__(self, folder: Path, write: bool = True):
        self.folder, self.writes = folder, write
        self.database = Database(folder, write, PROFILE)
        self.proposed = ProposedQuestions(self.database)
        self.imports = Imports(self.database)
        self.exchanges = Exchanges(self.database)
        self.inferred = InferredVerdicts(self.database)
        self.pairs = PreferencePairs(self.database)
        self.watched = WatchedFolders(self.database)
        self.question_vectors = QuestionVectors(self.database)
        self.sample = StoredSample(self.database)
        if write:
            remove_partials(folder / "adapters")
            remove_leftovers(folder, self.database)

    def close(self) -> None:
        """Close the database and release the lock."""
        self.database.close()

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """Return a context manager in which all changes are made, or none of them if it raises."""
        return self.database.transaction()

    # The stream

    def add_dialogues(self, dialogues: Iterable[Dialogue], source: str, adapter_id: int | None = None) -> int:
        """Append the dialogues that are not in the stream yet.

        Args:
            dialogues: Dialogues in the order of the stream.
            source: Where they come from.
            adapter_id: Adapter that generated the answers, if any.

        Returns:
            The number of new dialogues.
        """
        with self.transaction() as connection:
            cursor = connection.executemany(
                "INSERT OR IGNORE INTO dialogues (key, messages, source, adapter_id, received_at)"
                " VALUES (?, ?, ?, ?, ?)",
                ((d.key, dump_dialogue(d), source, adapter_id, utc_now()) for d in dialogues),
            )
            return cursor.rowcount

    def put_conversation(
        self, dialogue_id: int | None, dialogue: Dialogue, source: str, adapter_id: int | None = None
    ) -> int | None:
        """Store the present state of a conversation that may go on.

        Its earlier state is replaced, so that the stream has one dialogue of it. If that has been scored meanwhile,
        which cannot be undone, the conversation is appended as another dialogue. Nothing is stored twice: if the stream
        has the same dialogue from elsewhere, the conversation is not stored until it differs.

        Args:
            dialogue_id: What this method returned for its earlier state; None for a new conversation.
            dialogue: The conversation so far.
            source: Where it comes from.
            adapter_id: Adapter that generated the answers, if any.

        Returns:
            Its id in the stream; None if it is not stored.
        """
        unscored = f"id = ? AND id > {LAST_DECIDED}"
        with self.transaction() as connection:
            updated = connection.execute(
                f"UPDATE OR IGNORE dialogues SET key = ?, messages = ? WHERE {unscored}",
                (dialogue.key, dump_dialogue(dialogue), dialogue_id),
            )
            if updated.rowcount:
                return dialogue_id
            connection.execute(f"DELETE FROM dialogues WHERE {unscored}", (dialogue_id,))
            if not self.add_dialogues([dialogue], source, adapter_id):
                return None
            return self.database.fetch_int("SELECT max(id) FROM dialogues")

    def dialogue_count(self) -> int:
        """Return how many dialogues have been received."""
        return self.database.fetch_int(f"SELECT count(*) FROM {_STREAM}")

    def dialogue(self, dialogue_id: int) -> DialogueRow | None:
        """Return the dialogue with this id, or None if there is none."""
        row = self.database.fetch_one("SELECT * FROM dialogues WHERE id = ?", dialogue_id)
        return None if row is None else DialogueRow.from_row(row)

    def dialogues(self) -> list[DialogueRow]:
        """Return the whole stream in order."""
        return [DialogueRow.from_row(row) for row in self.database.fetch_all(f"SELECT * FROM {_STREAM} ORDER BY id")]

    def unscored(self, limit: int) -> list[DialogueRow]:
        """Return the first `limit` dialogues of the stream that have not been scored."""
        query = f"SELECT * FROM {_STREAM} AND id > {LAST_DECIDED} ORDER BY id LIMIT ?"
        return [DialogueRow.from_row(row) for row in self.database.fetch_all(query, limit)]

    def unscored_count(self) -> int:
        """Return how many dialogues have not been scored."""
        return self.database.fetch_int(f"SELECT count(*) FROM {_STREAM} AND id > {LAST_DECIDED}")

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
        """Record a decision of the selection.

        Args:
            dialogue_id: The dialogue.
            action: `stored`, `replaced`, `kept-out` or `duplicate`.
            domain: Its dominant domain.
            scores: EOE, DSS and IDD.
            slot: Its bin, if it was selected.
            replaced_id: Dialogue that was replaced, if any.
            detail: Explanation of the decision, as plain JSON.
        """
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (dialogue_id, action, domain, *scores, slot, replaced_id, json.dumps(detail), utc_now()),
            )

    def decision(self, dialogue_id: int) -> DecisionRow | None:
        """Return the decision on a dialogue, or None if it has not been scored."""
        row = self.database.fetch_one("SELECT * FROM decisions WHERE dialogue_id = ?", dialogue_id)
        return None if row is None else DecisionRow.from_row(row)

    def put_bin(self, slot: int, dialogue_id: int, vector: np.ndarray, eoe: float, idd: float) -> None:
        """Fill a bin, or replace its dialogue.

        Args:
            slot: Number of the bin.
            dialogue_id: The dialogue.
            vector: Its embedding, float32 [D] of unit norm.
            eoe: Entropy of embedding.
            idd: In-domain dissimilarity on arrival.
        """
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO bins VALUES (?, ?, ?, ?, ?)",
                (slot, dialogue_id, vector.astype("<f4").tobytes(), eoe, idd),
            )

    def bins(self) -> list[BinRow]:
        """Return the filled bins by slot."""
        query = "SELECT bins.*, messages FROM bins JOIN dialogues ON dialogues.id = dialogue_id ORDER BY slot"
        return [BinRow.from_row(row) for row in self.database.fetch_all(query)]

    def bin_count(self) -> int:
        """Return the number of filled bins."""
        return self.database.fetch_int("SELECT count(*) FROM bins")

    def highest_slot(self) -> int | None:
        """Return the highest slot of the filled bins, or None if all are empty."""
        row = self.database.fetch_one("SELECT max(slot) FROM bins")
        return None if row is None else row[0]

    def action_counts(self) -> dict[str, int]:
        """Return the number of dialogues for each action of the selection."""
        query = "SELECT action, count(*) FROM decisions GROUP BY action"
        return {row[0]: row[1] for row in self.database.fetch_all(query)}

    def entropies(self) -> list[float]:
        """Return the EOE of every scored dialogue in the order of the stream, except for rejected near-duplicates."""
        query = "SELECT eoe FROM decisions WHERE action != 'duplicate' ORDER BY dialogue_id"
        return [row["eoe"] for row in self.database.fetch_all(query)]

    def changed_bins(self, after: int) -> int:
        """Return the number of bins that were filled or replaced by dialogues with an id above `after`."""
        query = "SELECT count(DISTINCT slot) FROM decisions WHERE dialogue_id > ? AND slot IS NOT NULL"
        return self.database.fetch_int(query, after)

    # Annotation

    def add_annotation(
        self,
        dialogue_id: int,
        verdict: str,
        preferred: Dialogue | None,
        group: int,
        held_out: bool,
        origin: str = "owner",
    ) -> int:
        """Record a verdict, which replaces an earlier one on the same dialogue.

        Args:
            dialogue_id: The dialogue.
            verdict: `accept`, `edit`, `rewrite` or `skip`.
            preferred: The dialogue with the preferred answers; None for a skipped one.
            group: Number of its group of near-duplicates.
            held_out: Whether it is held out for evaluation.
            origin: Whose verdict it is, see `AnnotationRow`.

        Returns:
            The annotation's id.
        """
        with self.transaction() as connection:
            query = "SELECT id FROM annotations WHERE dialogue_id = ? AND undone = 0"
            current = self.database.fetch_one(query, dialogue_id)
            replaces = None if current is None else current["id"]
            connection.execute("UPDATE annotations SET undone = 1 WHERE id = ?", (replaces,))
            messages = None if preferred is None else dump_dialogue(preferred)
            cursor = connection.execute(
                "INSERT INTO annotations"
                " (dialogue_id, verdict, messages, near_duplicates, held_out, replaces, asked_at, origin)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (dialogue_id, verdict, messages, group, held_out, replaces, utc_now(), origin),
            )
        return int(cursor.lastrowid or 0)

    def undo_annotation(self) -> int | None:
        """Undo the last verdict and restore an earlier one on the same dialogue.

        Returns:
            The dialogue's id, or None if there is no verdict.
        """
        with self.transaction() as connection:
            row = self.database.fetch_one("SELECT * FROM annotations WHERE undone = 0 ORDER BY id DESC LIMIT 1")
            if row is None:
                return None
            connection.execute("UPDATE annotations SET undone = 1 WHERE id = ?", (row["id"],))
            if row["replaces"] is not None:
                connection.execute("UPDATE annotations SET undone = 0 WHERE id = ?", (row["replaces"],))
        return int(row["dialogue_id"])

    def annotations(self, undone: bool = False, after_id: int = 0) -> list[AnnotationRow]:
        """Return the current annotations in order.

        Args:
            undone: Whether to include those that were undone or replaced.
            after_id: Id of the annotation after which they begin; 0 for all.
        """
        query = "SELECT * FROM annotations WHERE undone <= ? AND id > ? ORDER BY id"
        return [AnnotationRow.from_row(row) for row in self.database.fetch_all(query, int(undone), after_id)]

    def annotation(self, annotation_id: int) -> AnnotationRow | None:
        """Return an annotation, even one that was undone, or None if there is none of this id."""
        row = self.database.fetch_one("SELECT * FROM annotations WHERE id = ?", annotation_id)
        return None if row is None else AnnotationRow.from_row(row)

    def annotation_of(self, dialogue_id: int) -> AnnotationRow | None:
        """Return the current annotation of a dialogue, or None if there is none."""
        query = "SELECT * FROM annotations WHERE undone = 0 AND dialogue_id = ?"
        row = self.database.fetch_one(query, dialogue_id)
        return None if row is None else AnnotationRow.from_row(row)

    def annotation_times(self, since: str = "") -> list[tuple[int, str]]:
        """Return the dialogue id and the UTC time of the user's annotations, including those that were undone.

        Args:
            since: The earliest UTC time in ISO format; empty for all.
        """
        query = "SELECT dialogue_id, asked_at FROM annotations WHERE asked_at >= ? AND origin != 'inferred' ORDER BY id"
        rows = self.database.fetch_all(query, since)
        return [(row["dialogue_id"], row["asked_at"]) for row in rows]

    def annotation_counts(self) -> AnnotationCounts:
        """Return the numbers of current annotations by kind."""
        row = self.database.fetch_one(
            "SELECT count(messages), coalesce(sum(held_out AND messages IS NOT NULL), 0), count(*) - count(messages)"
            " FROM annotations WHERE undone = 0"
        )
        return AnnotationCounts(0, 0, 0) if row is None else AnnotationCounts(*row)

    def preferred_annotations(self, held_out: bool) -> list[AnnotationRow]:
        """Return the current annotations with a preferred answer on one side of the held-out split."""
        query = f"SELECT * FROM annotations WHERE {_PREFERRED} AND held_out = ? ORDER BY id"
        return [AnnotationRow.from_row(row) for row in self.database.fetch_all(query, int(held_out))]

    def last_preferred_id(self) -> int:
        """Return the id of the latest current annotation with a preferred answer that is not held out; 0 if none."""
        return self.database.fetch_int(f"SELECT max(id) FROM annotations WHERE {_PREFERRED} AND held_out = 0")

    def unsynthesized_count(self) -> int:
        """Return the number of annotated dialogues that are not held out and have no synthetic dialogues."""
        return self.database.fetch_int(
            f"SELECT count(*) FROM annotations WHERE {_PREFERRED} AND held_out = 0"
            " AND id NOT IN (SELECT annotation_id FROM synthetic)"
        )

    def open_question_ids(self) -> list[int]:
        """Return the ids of the dialogues without a verdict, oldest first.

        These are the dialogues of the buffer, and those whose verdict was undone even if they left the buffer.
        """
        rows = self.database.fetch_all(f"{_OPEN_QUESTIONS} ORDER BY dialogue_id")
        return [row["dialogue_id"] for row in rows]

    def open_question_count(self, with_proposals: bool = False) -> int:
        """Return the number of dialogues without a verdict.

        Args:
            with_proposals: Whether to count the dialogues outside of the buffer that have a proposal, too.
        """
        count = self.database.fetch_int(f"SELECT count(*) FROM ({_OPEN_QUESTIONS})")
        if with_proposals:
            others = f"{OPEN_PROPOSALS} EXCEPT SELECT * FROM ({_OPEN_QUESTIONS})"
            count += self.database.fetch_int(f"SELECT count(*) FROM ({others})")
        return count

    def last_ids(self) -> dict[str, int]:
        """Return the ids of the last decision and the last annotation, which a training run stores in its config."""
        return {
            "last_dialogue": self.database.fetch_int("SELECT max(dialogue_id) FROM decisions"),
            "last_annotation": self.database.fetch_int("SELECT max(id) FROM annotations"),
        }

    # Runs and synthetic dialogues

    def begin_run(self, kind: str, model: str, config: dict[str, Any]) -> int:
        """Record the start of a run.

        Args:
            kind: `synthesis` or `training`.
            model: Fingerprint of the base model.
            config: The run's settings.

        Returns:
            The run's id.
        """
        with self.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO runs (kind, model, config, received, started_at) VALUES (?, ?, ?, ?, ?)",
                (kind, model, json.dumps(config), self.dialogue_count(), utc_now()),
            )
        return int(cursor.lastrowid or 0)

    def finish_run(self, run_id: int, result: dict[str, Any]) -> None:
        """Record the end of a run and its result."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE runs SET finished_at = ?, result = ? WHERE id = ?", (utc_now(), json.dumps(result), run_id)
            )

    def last_run(self, kind: str, model: str | None = None) -> RunRow | None:
        """Return the latest finished run of a kind.

        Args:
            kind: `synthesis` or `training`.
            model: Fingerprint of the base model; None for any.
        """
        return self._run(
            "kind = ? AND model = coalesce(?, model) AND finished_at IS NOT NULL ORDER BY id DESC LIMIT 1", kind, model
        )

    def unfinished_run(self, kind: str, model: str) -> RunRow | None:
        """Return the latest run of a kind on the base model of this fingerprint, if it has not finished."""
        run = self._run("kind = ? AND model = ? ORDER BY id DESC LIMIT 1", kind, model)
        return run if run is not None and run.finished_at is None else None

    def run(self, run_id: int) -> RunRow | None:
        """Return a run, or None if there is none with this id."""
        return self._run("id = ?", run_id)

    def _run(self, condition: str, *values: object) -> RunRow | None:
        row = self.database.fetch_one(f"SELECT * FROM runs WHERE {condition}", *values)
        return None if row is None else RunRow.from_row(row)

    def add_synthetic(self, run_id: int, texts: Iterable[NewSynthetic]) -> None:
        """Store the dialogues of a synthesis run; they replace those of earlier runs for the same annotations."""
        values = [
            (
                run_id,
                text.annotation_id,
                None if text.dialogue is None else dump_dialogue(text.dialogue),
                text.raw_text,
                text.rouge1,
                text.kept,
                text.reason,
            )
            for text in texts
        ]
        with self.transaction() as connection:
            connection.executemany(
                "INSERT INTO synthetic (run_id, annotation_id, messages, raw, rouge1, kept, reason)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            )

    def synthetic(self) -> list[SyntheticRow]:
        """Return the synthetic dialogues of the latest synthesis run of every current annotation."""
        query = f"SELECT synthetic.* FROM {_LATEST_SYNTHETIC} ORDER BY synthetic.id"
        return [SyntheticRow.from_row(row) for row in self.database.fetch_all(query)]

    def synthetic_counts(self) -> tuple[int, int]:
        """Return the number of dialogues that `synthetic` returns, and how many of them are kept."""
        row = self.database.fetch_one(f"SELECT count(*), coalesce(sum(kept), 0) FROM {_LATEST_SYNTHETIC}")
        return (0, 0) if row is None else (row[0], row[1])

    def add_training_sources(self, run_id: int, sources: Sequence[tuple[int, int | None]]) -> None:
        """Record the sources of a training run's examples.

        Args:
            run_id: The training run.
            sources: For each example its annotation id, and its synthetic id or None for the annotated dialogue itself.
        """
        with self.transaction() as connection:
            connection.executemany(
                "INSERT INTO training_rows VALUES (?, ?, ?, ?)",
                ((run_id, position, *source) for position, source in enumerate(sources)),
            )

    def training_sources(self, run_id: int) -> list[TrainingSource]:
        """Return the sources of a training run's examples, in order."""
        rows = self.database.fetch_all(
            "SELECT position, dialogue_id, annotation_id, synthetic_id FROM training_rows"
            " JOIN annotations ON annotations.id = annotation_id WHERE run_id = ? ORDER BY position",
            run_id,
        )
        return [TrainingSource(**dict(row)) for row in rows]

    def checkpoint_folder(self, run_id: int) -> Path:
        """Return the folder of a training run's checkpoints, which exists until its adapter is recorded."""
        return self.folder / f"training/{run_id:04d}"

    # Adapters

    def add_adapter(self, run_id: int, folder: str, model: str) -> int:
        """Record a trained adapter.

        Args:
            run_id: The training run that created it.
            folder: Its folder, relative to the profile's.
            model: Fingerprint of its base model.

        Returns:
            The adapter's id.
        """
        with self.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO adapters (run_id, folder, model, created_at) VALUES (?, ?, ?, ?)",
                (run_id, folder, model, utc_now()),
            )
        return int(cursor.lastrowid or 0)

    def set_evaluation(self, adapter_id: int, evaluation: dict[str, Any]) -> None:
        """Store an adapter's comparison with the base model."""
        with self.transaction() as connection:
            connection.execute("UPDATE adapters SET evaluation = ? WHERE id = ?", (json.dumps(evaluation), adapter_id))

    def promote(self, adapter_id: int | None) -> None:
        """Promote an adapter on the current base model; None promotes the base model itself."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO promotions (model, adapter_id, promoted_at) VALUES (?, ?, ?)",
                (self.fingerprint(), adapter_id, utc_now()),
            )

    def undo_promotion(self) -> None:
        """Undo the last promotion on the current base model."""
        with self.transaction() as connection:
            query = "DELETE FROM promotions WHERE id = (SELECT max(id) FROM promotions WHERE model = ?)"
            connection.execute(query, (self.fingerprint(),))

    def promotions(self) -> list[int | None]:
        """Return the adapters that were promoted on the current base model, in order; the last one is in use."""
        query = "SELECT adapter_id FROM promotions WHERE model = ? ORDER BY id"
        return [row[0] for row in self.database.fetch_all(query, self.fingerprint())]

    def adapters(self) -> list[AdapterRow]:
        """Return all adapters in order, including those of other base models."""
        promoted = (self.promotions() or [None])[-1]
        rows = self.database.fetch_all("SELECT * FROM adapters ORDER BY id")
        return [AdapterRow.from_row(row, row["id"] == promoted) for row in rows]

    def adapter_count(self) -> int:
        """Return the number of adapters, including those of other base models."""
        return self.database.fetch_int("SELECT count(*) FROM adapters")

    # Metadata of the profile

    def model_name(self) -> str | None:
        """Return the name of the current base model; None before one is set."""
        return self._meta("model")

    def fingerprint(self) -> str:
        """Return the fingerprint of the current base model's weights; empty before one is set."""
        return self._meta("fingerprint") or ""

    def set_model(self, name: str, fingerprint: str) -> None:
        """Set the current base model."""
        with self.transaction():
            self._set_meta("fingerprint", fingerprint)
            self._set_meta("model", name)

    def model_record(self, kind: str) -> Any:
        """Return what was measured about the current base model, or None if it was not measured yet.

        Args:
            kind: What was measured, such as `chat_format`.
        """
        query = "SELECT value FROM model_records WHERE model = ? AND kind = ?"
        row = self.database.fetch_one(query, self.fingerprint(), kind)
        return None if row is None else json.loads(row[0])

    def set_model_record(self, kind: str, value: Any) -> None:
        """Store what was measured about the current base model, replacing an earlier measurement.

        Args:
            kind: What was measured.
            value: Anything that JSON can represent.
        """
        with self.transaction() as connection:
            row = (self.fingerprint(), kind, json.dumps(value, ensure_ascii=False))
            connection.execute("INSERT OR REPLACE INTO model_records VALUES (?, ?, ?)", row)

    def embedding_signature(self) -> str | None:
        """Return the embedder and the estimator of the stored vectors and entropies; None before the first ones."""
        return self._meta("embedded_by")

    def set_embedding_signature(self, signature: str) -> None:
        """Record the embedder and the estimator of the stored vectors and entropies."""
        self._set_meta("embedded_by", signature)

    def creator(self) -> str | None:
        """Return the name of the program that created the profile; None if the user did."""
        return self._meta("made_by")

    def set_creator(self, creator: str) -> None:
        """Record that a program created the profile, and not the user."""
        self._set_meta("made_by", creator)

    def _meta(self, key: str) -> str | None:
        row = self.database.fetch_one("SELECT value FROM meta WHERE key = ?", key)
        return None if row is None else str(row[0])

    def _set_meta(self, key: str, value: str) -> None:
        with self.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
