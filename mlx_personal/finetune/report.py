"""What a training tells: each step while it runs, and the whole of it at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingStep:
    """One optimizer step.

    Args:
        number: from 1 to `steps`.
        epoch: from 1.
        loss: weighted mean cross entropy over the step's targets, before the step.
        learning_rate: that it was done with.
        target_tokens: how many targets it had.
        seconds: it took.
        memory_bytes: held by MLX after it.
        watts: drawn during it, where a counter tells; `train` leaves it to its caller.
    """

    number: int
    steps: int
    epoch: int
    loss: float
    learning_rate: float
    target_tokens: int
    seconds: float
    memory_bytes: int
    watts: float | None = None


@dataclass(frozen=True)
class TrainingReport:
    """What a training did. Losses are mean cross entropies a target token, each counted by its row's weight.

    Args:
        rows: trained on in each epoch, replayed general ones included; `replayed_rows` are those.
        dropped_rows, truncated_rows: had nothing to learn; lost their beginning.
        target_tokens, processed_tokens: learnt, and computed with padding, in one epoch.
        epochs, steps: that were done; fewer than asked for where it stopped early.
        losses, epoch_losses: of each step, and the means over each epoch's targets.
        epoch_ends: the step that each epoch ended with.
        validation_losses, general_losses: (step, loss) on rows held out of the training, and on held-out general ones.
        best_step: after which the adapter is taken; the last one, unless there are held-out rows.
        way, way_reason: how it computed (`exactness`), and why not in a faster way.
        kept_states: where the frozen blocks' output was kept (`frozen`), and the bytes it took.
        peak_memory_bytes, estimated_memory_bytes: most that MLX held, and what had been expected beforehand.
        seconds, prepare_seconds: all of it, and what passed before the first step.
        resumed_from: the step it went on from; 0 for one that ran through.
        notes: what the owner should know, a line each.
    """

    rows: int
    replayed_rows: int
    dropped_rows: int
    truncated_rows: int
    target_tokens: int
    processed_tokens: int
    epochs: int
    steps: int
    losses: tuple[float, ...]
    epoch_losses: tuple[float, ...]
    epoch_ends: tuple[int, ...]
    validation_losses: tuple[tuple[int, float], ...]
    general_losses: tuple[tuple[int, float], ...]
    best_step: int
    way: str
    fallback_reason: str
    kept_states: str
    kept_states_bytes: int
    peak_memory_bytes: int
    estimated_memory_bytes: int | None
    seconds: float
    prepare_seconds: float
    resumed_from: int
    notes: tuple[str, ...]

    @property
    def forgotten(self) -> float | None:
        """How much the loss on general dialogues rose, in relation to what it was; None where none were given."""
        return forgotten(self.general_losses, self.best_step)


def forgotten(general_losses: Sequence[Sequence[float]], best_step: int) -> float | None:
    """Of a report, or of what was stored of one."""
    by_step = {step: loss for step, loss in general_losses}
    return by_step[best_step] / by_step[0] - 1 if by_step else None
