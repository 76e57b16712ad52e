"""The status of a profile, computed from counts in its database without loading a model or importing MLX."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_personal.annotation import left_today, open_question_count
from mlx_personal.config import Config
from mlx_personal.errors import UserError
from mlx_personal.models.stores.model_source import read_source
from mlx_personal.personalizer.answering import AnswerStatus, answer_status
from mlx_personal.personalizer.chat_format_record import chat_format_notes
from mlx_personal.personalizer.pending import PendingStep, pending_steps
from mlx_personal.personalizer.tuning.record import TuningRecord, read_record
from mlx_personal.profile import Store, check_profile_exists
from mlx_personal.profile.inferred import InferredCounts
from mlx_personal.synthesis.config import CALIBRATION_RECORD


@dataclass(frozen=True)
class ProfileStatus:
    """The status of a profile.

    Attributes:
        folder: The profile's folder.
        model: Name of the base model.
        model_source: Name of what the base model was converted from; None if it was not converted.
        chat_format_notes: What is notable about the base model's chat template; empty if nothing is.
        received: Number of received dialogues.
        unscored: Number of these that have not been scored.
        filled_bins: Number of filled bins of the buffer.
        bin_capacity: Number of bins of the buffer.
        decisions: Number of dialogues for each action of the selection.
        open_questions: Number of dialogues without a verdict that were selected or have a proposal.
        questions_left_today: Number of dialogues that may still be annotated today.
        annotated: Number of annotated dialogues with a preferred answer.
        held_out: Number of these that are held out for evaluation.
        skipped: Number of dialogues that the user skipped.
        inferred: Numbers of proposals, which follow from exports, and of what became of them.
        synthetic_generated: Number of synthetic dialogues.
        synthetic_kept: Number of these that are trained on.
        prompt_style: The prompt style that was found for the base model; None if none was looked for.
        adapters: Number of trained adapters.
        promoted: Id of the adapter in use; None for the base model.
        answers: What answers, with or without memory, and why.
        last_training: Time when the last training run finished, UTC; None without one.
        tuning: What the last tuning on the base model found; None without one.
        pending: The pending steps in order.
    """

    folder: str
    model: str
    model_source: str | None
    chat_format_notes: tuple[str, ...]
    received: int
    unscored: int
    filled_bins: int
    bin_capacity: int
    decisions: dict[str, int]
    open_questions: int
    questions_left_today: int
    annotated: int
    held_out: int
    skipped: int
    inferred: InferredCounts
    synthetic_generated: int
    synthetic_kept: int
    prompt_style: str | None
    adapters: int
    promoted: int | None
    answers: AnswerStatus
    last_training: str | None
    tuning: TuningRecord | None
    pending: tuple[PendingStep, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the status under the keys that `--json` has had since version 0.1."""
        return {
            "folder": self.folder,
            "model": self.model,
            "model_source": self.model_source,
            "chat_format": list(self.chat_format_notes),
            "received": self.received,
            "unscored": self.unscored,
            "bins": {"filled": self.filled_bins, "capacity": self.bin_capacity},
            "decisions": self.decisions,
            "questions": {"open": self.open_questions, "left_today": self.questions_left_today},
            "annotated": self.annotated,
            "held_out": self.held_out,
            "skipped": self.skipped,
            "inferred": dataclasses.asdict(self.inferred),
            "synthetic": {"written": self.synthetic_generated, "kept": self.synthetic_kept},
            "prompt_style": self.prompt_style,
            "adapters": self.adapters,
            "promoted": self.promoted,
            "answers": dataclasses.asdict(self.answers),
            "last_training": self.last_training,
            "tuning": None if self.tuning is None else dataclasses.asdict(self.tuning),
            "due": [dataclasses.asdict(step) for step in self.pending],
        }


def read_status(folder: Path) -> ProfileStatus:
    """Return the status of the profile in a folder, even while another process writes to it.

    Args:
        folder: The profile's folder.

    Raises:
        UserError: If there is no profile, or its settings or its database cannot be read.
    """
    folder = Path(folder).expanduser()
    check_profile_exists(folder)
    config = Config.read(folder / "config.toml")
    store = Store(folder, write=False)
    try:
        return store_status(store, config)
    finally:
        store.close()


def store_status(store: Store, config: Config) -> ProfileStatus:
    """Return the status of an open profile.

    Args:
        store: The profile's store.
        config: The profile's settings.

    Raises:
        UserError: If the configured buffer is smaller than the stored one.
    """
    check_buffer_size(store, config)
    model_source = read_source(Path(store.model_name() or ""))
    annotations, last_training = store.annotation_counts(), store.last_run("training")
    synthetic_generated, synthetic_kept = store.synthetic_counts()
    return ProfileStatus(
        folder=str(store.folder),
        model=store.model_name() or "",
        model_source=None if model_source is None else model_source.name,
        chat_format_notes=chat_format_notes(store),
        received=store.dialogue_count(),
        unscored=store.unscored_count(),
        filled_bins=store.bin_count(),
        bin_capacity=config.selection.bins,
        decisions=store.action_counts(),
        open_questions=open_question_count(store, config.annotation),
        questions_left_today=left_today(store, config.annotation),
        annotated=annotations.annotated,
        held_out=annotations.held_out,
        skipped=annotations.skipped,
        inferred=store.inferred.counts(),
        synthetic_generated=synthetic_generated,
        synthetic_kept=synthetic_kept,
        prompt_style=(store.model_record(CALIBRATION_RECORD) or {}).get("style"),
        adapters=store.adapter_count(),
        promoted=(store.promotions() or [None])[-1],
        answers=answer_status(store, config),
        last_training=None if last_training is None else last_training.finished_at,
        tuning=read_record(store),
        pending=tuple(pending_steps(store, config, store.fingerprint())),
    )


def check_buffer_size(store: Store, config: Config) -> None:
    """Check that the configured buffer has all bins that are filled.

    Args:
        store: The profile's store.
        config: The profile's settings.

    Raises:
        UserError: If it has not.
    """
    bins, highest_slot = config.selection.bins, store.highest_slot()
    if highest_slot is not None and highest_slot >= bins:
        raise UserError(
            f"selection.bins is {bins}, but bin {highest_slot} is in use",
            store.folder / "config.toml",
            "a buffer can grow, not shrink",
        )
