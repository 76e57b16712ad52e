"""What the tables hold, as the other rooms see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_personal.dialogue import Dialogue


@dataclass(frozen=True)
class DialogueRow:
    """A dialogue of the stream. `adapter_id` marks answers that an adapted model gave in `chat`."""

    id: int
    dialogue: Dialogue
    source: str
    adapter_id: int | None
    received_at: str


@dataclass(frozen=True)
class BinRow:
    """A bin of the buffer; `vector` is float32 [D] of unit norm, `idd` the score on arrival."""

    slot: int
    dialogue_id: int
    dialogue: Dialogue
    vector: np.ndarray
    eoe: float
    idd: float


@dataclass(frozen=True)
class AnnotationRow:
    """The owner's verdict on a dialogue; `preferred` is None for a skipped one."""

    id: int
    dialogue_id: int
    verdict: str
    preferred: Dialogue | None
    near_duplicates: int
    held_out: bool
    asked_at: str


@dataclass(frozen=True)
class SyntheticRow:
    """A text that the model wrote for an annotated dialogue, kept or not."""

    id: int
    run_id: int
    annotation_id: int
    dialogue: Dialogue | None
    rouge1: float | None
    kept: bool
    reason: str


@dataclass(frozen=True)
class RunRow:
    """A synthesis, a training or an evaluation; `result` is None until it has finished."""

    id: int
    kind: str
    model: str
    config: dict[str, Any]
    received: int
    started_at: str
    finished_at: str | None
    result: dict[str, Any] | None


@dataclass(frozen=True)
class AdapterRow:
    """A trained adapter; `folder` is relative to the profile's, `model` the fingerprint of its base."""

    id: int
    run_id: int
    folder: str
    model: str
    created_at: str
    evaluation: dict[str, Any] | None
    promoted: bool
