"""The records of a training: one for each optimizer step, and the report at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingStep:
    """One optimizer step.

    Attributes:
        number: The step, from 1 to `steps`.
        steps: Steps of the whole training.
        epoch: The epoch, from 1.
        loss: Weighted mean cross entropy of the step's targets in nats, before the update.
        learning_rate: Learning rate of the update.
        target_tokens: Targets of the step.
        elapsed_s: Seconds the step took.
        memory_bytes: Memory that MLX holds after the step.
        power_watts: Power drawn during the step; None where nothing measures it. `train` leaves it to its caller.
    """

    number: int
    steps: int
    epoch: int
    loss: float
    learning_rate: float
    target_tokens: int
    elapsed_s: float
    memory_bytes: int
    power_watts: float | None = None


@dataclass(frozen=True)
class TrainingReport:
    """The results of a training. Losses are mean cross entropies per target token in nats, weighted by sample.

    Attributes:
        samples: Samples trained on in each epoch, replayed general ones included.
        replayed_samples: General samples among them.
        dropped_samples: Samples left out because they have no target.
        truncated_samples: Samples that lost their beginning.
        target_tokens: Targets of one epoch.
        processed_tokens: Tokens computed in one epoch, padding included.
        epochs: Epochs that were completed; fewer than configured after early stopping.
        steps: Optimizer steps that were completed.
        losses: Loss of each step.
        epoch_losses: Mean loss of each epoch.
        epoch_ends: Last step of each epoch.
        validation_losses: (step, loss) on held-out samples.
        general_losses: (step, loss) on held-out general samples.
        best_step: Step whose adapter was kept; the last one without validation data.
        forward_mode: How the forward pass was computed, see `forward.equivalence`.
        fallback_reason: Why a faster mode was not used; empty for the fastest.
        activation_cache: Where the activations of the frozen blocks were cached: `memory`, `file` or `nowhere`.
        activation_cache_bytes: Size of that cache.
        peak_memory_bytes: The most that MLX held.
        estimated_memory_bytes: Estimate of that before the training; None where there is none.
        elapsed_s: Seconds of the whole training.
        prepare_s: Seconds before the first step.
        resumed_from: Step of the checkpoint that the training resumed from; 0 for none.
        notes: Remarks for the user, one line each.
    """

    samples: int
    replayed_samples: int
    dropped_samples: int
    truncated_samples: int
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
    forward_mode: str
    fallback_reason: str
    activation_cache: str
    activation_cache_bytes: int
    peak_memory_bytes: int
    estimated_memory_bytes: int | None
    elapsed_s: float
    prepare_s: float
    resumed_from: int
    notes: tuple[str, ...]

    @property
    def forgetting(self) -> float | None:
        """Relative rise of the loss on general dialogues; None where it was not measured."""
        return forgetting(self.general_losses, self.best_step)


def forgetting(general_losses: Sequence[Sequence[float]], best_step: int) -> float | None:
    """Return how much the loss on general dialogues rose, relative to the loss before training.

    Args:
        general_losses: (step, loss) pairs of a report or of a stored run; step 0 is before training.
        best_step: Step whose adapter was kept.

    Returns:
        The relative rise; None without general losses.
    """
    loss_by_step = {step: loss for step, loss in general_losses}
    return loss_by_step[best_step] / loss_by_step[0] - 1 if loss_by_step else None
