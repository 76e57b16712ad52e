"""Records of a profile's database: one dataclass for each kind of row."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import StorageError


@dataclass(frozen=True)
class DialogueRow:
    """A dialogue of the stream.

    Attributes:
        id: Id of the dialogue; ids increase along the stream.
        dialogue: The dialogue itself.
        source: Where the dialogue comes from, such as a file or `chat`.
        adapter_id: Adapter that generated the answers in `chat`; None for all other dialogues.
        received_at: Time of arrival, UTC.
    """

    id: int
    dialogue: Dialogue
    source: str
    adapter_id: int | None
    received_at: str

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Self:
        """Return the record of a row of `dialogues`."""
        return cls(row["id"], load_dialogue(row["messages"]), row["source"], row["adapter_id"], row["received_at"])


@dataclass(frozen=True)
class DecisionRow:
    """The decision of the selection on a dialogue. The fields have the names of the table's columns.

    Attributes:
        dialogue_id: The dialogue.
        action: `stored`, `replaced`, `kept-out` or `duplicate`.
        domain: Its dominant domain.
        eoe: Entropy of embedding.
        dss: Domain-specific score.
        idd: In-domain dissimilarity.
        slot: Bin of the dialogue; None if it was not selected.
        replaced_id: Dialogue that was replaced, if any.
        detail: Explanation of the decision, see `selection.Decision`.
        decided_at: Time of the decision, UTC.
    """

    dialogue_id: int
    action: str
    domain: str
    eoe: float
    dss: float
    idd: float
    slot: int | None
    replaced_id: int | None
    detail: dict[str, Any]
    decided_at: str

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Self:
        """Return the record of a row of `decisions`."""
        return cls(**{**dict(row), "detail": json.loads(row["detail"])})


@dataclass(frozen=True)
class BinRow:
    """A filled bin of the buffer.

    Attributes:
        slot: Number of the bin.
        dialogue_id: Id of its dialogue.
        dialogue: The dialogue itself.
        vector: Its embedding, float32 [D] of unit norm.
        eoe: Entropy of embedding.
        idd: In-domain dissimilarity when the dialogue was stored.
    """

    slot: int
    dialogue_id: int
    dialogue: Dialogue
    vector: np.ndarray
    eoe: float
    idd: float

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Self:
        """Return the record of a row of `bins` joined with its dialogue's `messages`."""
        dialogue, vector = load_dialogue(row["messages"]), load_vector(row["vector"])
        return cls(row["slot"], row["dialogue_id"], dialogue, vector, row["eoe"], row["idd"])


@dataclass(frozen=True)
class AnnotationRow:
    """A verdict of the user on a dialogue.

    Attributes:
        id: Id of the annotation.
        dialogue_id: The dialogue.
        verdict: `accept`, `edit`, `rewrite` or `skip`.
        preferred: The dialogue with the preferred answers; None for a skipped one.
        group: Number of its group of near-duplicates.
        held_out: Whether it is held out for evaluation.
        annotated_at: Time of the verdict, UTC.
        origin: Whose verdict it is: `owner`, `proposal` of the owner who took one, or `inferred` and accepted without
            asking.
    """

    id: int
    dialogue_id: int
    verdict: str
    preferred: Dialogue | None
    group: int
    held_out: bool
    annotated_at: str
    origin: str = "owner"

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Self:
        """Return the record of a row of `annotations`."""
        return cls(
            id=row["id"],
            dialogue_id=row["dialogue_id"],
            verdict=row["verdict"],
            preferred=_load_optional_dialogue(row["messages"]),
            group=row["near_duplicates"],
            held_out=bool(row["held_out"]),
            annotated_at=row["asked_at"],
            origin=row["origin"],
        )


@dataclass(frozen=True)
class AnnotationCounts:
    """Numbers of current annotations: those that were neither undone nor replaced.

    Attributes:
        annotated: Number of annotations with a preferred answer.
        held_out: Number of these that are held out for evaluation.
        skipped: Number of dialogues that the user skipped.
    """

    annotated: int
    held_out: int
    skipped: int


@dataclass(frozen=True)
class NewSynthetic:
    """A synthetic dialogue to store.

    Attributes:
        annotation_id: The annotation it was generated for.
        dialogue: The dialogue parsed from the generated text; None if it could not be parsed.
        raw_text: The generated text.
        rouge1: ROUGE-1 against the original; None without a dialogue.
        kept: Whether it is trained on.
        reason: Why it was kept or dropped.
    """

    annotation_id: int
    dialogue: Dialogue | None
    raw_text: str
    rouge1: float | None
    kept: bool
    reason: str


@dataclass(frozen=True)
class SyntheticRow:
    """A stored synthetic dialogue, kept or not.

    Attributes:
        id: Id of the synthetic dialogue.
        run_id: The synthesis run that generated it.
        annotation_id: The annotation it was generated for.
        dialogue: The dialogue parsed from the generated text; None if it could not be parsed.
        rouge1: ROUGE-1 against the original; None without a dialogue.
        kept: Whether it is trained on.
        reason: Why it was kept or dropped.
    """

    id: int
    run_id: int
    annotation_id: int
    dialogue: Dialogue | None
    rouge1: float | None
    kept: bool
    reason: str

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Self:
        """Return the record of a row of `synthetic`."""
        return cls(
            id=row["id"],
            run_id=row["run_id"],
            annotation_id=row["annotation_id"],
            dialogue=_load_optional_dialogue(row["messages"]),
            rouge1=row["rouge1"],
            kept=bool(row["kept"]),
            reason=row["reason"],
        )


@dataclass(frozen=True)
class RunRow:
    """A synthesis run or a training run.

    Attributes:
        id: Id of the run.
        kind: `synthesis` or `training`.
        model: Fingerprint of the base model.
        config: Its settings, and for a training run the last ids before it, see `Store.last_ids`.
        received: Number of dialogues received when it began.
        started_at: Time of its start, UTC.
        finished_at: Time of its end, UTC; None until it has finished.
        result: Its result; None until it has finished.
    """

    id: int
    kind: str
    model: str
    config: dict[str, Any]
    received: int
    started_at: str
    finished_at: str | None
    result: dict[str, Any] | None

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Self:
        """Return the record of a row of `runs`."""
        result = None if row["result"] is None else json.loads(row["result"])
        return cls(**{**dict(row), "config": json.loads(row["config"]), "result": result})


@dataclass(frozen=True)
class TrainingSource:
    """The source of one example of a training run.

    Attributes:
        position: Index of the example in the training set.
        dialogue_id: Dialogue of the stream that it comes from.
        annotation_id: Annotation of that dialogue.
        synthetic_id: Id of the synthetic dialogue; None for the annotated dialogue itself.
    """

    position: int
    dialogue_id: int
    annotation_id: int
    synthetic_id: int | None


@dataclass(frozen=True)
class AdapterRow:
    """A trained adapter.

    Attributes:
        id: Id of the adapter.
        run_id: The training run that created it.
        folder: Its folder, relative to the profile's.
        model: Fingerprint of its base model.
        created_at: Time of its creation, UTC.
        evaluation: Its comparison with the base model as JSON; None until it has been evaluated.
        promoted: Whether `chat` uses it.
    """

    id: int
    run_id: int
    folder: str
    model: str
    created_at: str
    evaluation: dict[str, Any] | None
    promoted: bool

    @classmethod
    def from_row(cls, row: sqlite3.Row, promoted: bool) -> Self:
        """Return the record of a row of `adapters`."""
        evaluation = None if row["evaluation"] is None else json.loads(row["evaluation"])
        return cls(**{**dict(row), "evaluation": evaluation}, promoted=promoted)


def dump_dialogue(dialogue: Dialogue) -> str:
    """Return a dialogue as the database stores it."""
    return json.dumps(dialogue.to_messages(), ensure_ascii=False)


def load_dialogue(messages: str) -> Dialogue:
    """Return a stored dialogue.

    Raises:
        StorageError: If the stored text is damaged.
    """
    try:
        return Dialogue.from_messages(json.loads(messages))
    except ValueError as error:
        raise _damaged() from error


def _load_optional_dialogue(messages: str | None) -> Dialogue | None:
    return None if messages is None else load_dialogue(messages)


def load_vector(blob: bytes) -> np.ndarray:
    """Return a stored vector, float32.

    Raises:
        StorageError: If the stored bytes are damaged.
    """
    try:
        return np.frombuffer(blob, "<f4").astype(np.float32)
    except ValueError as error:
        raise _damaged() from error


def _damaged() -> StorageError:
    return StorageError("the profile's database is damaged", hint="restore it from a backup, or use another profile")
