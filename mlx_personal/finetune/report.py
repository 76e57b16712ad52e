"""The records of a training: one for each optimizer step, and the report at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_personal.finetune.data.samples import target_tokens

if TYPE_CHECKING:
    from mlx_personal.finetune.plan import TrainingPlan
    from mlx_personal.finetune.trainer_state import TrainerState


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


def make_step(plan: TrainingPlan, state: TrainerState, elapsed_s: float, memory_bytes: int) -> TrainingStep:
    """Return the record of the step that was completed last.

    Args:
        plan: The plan of the training.
        state: The state after the step.
        elapsed_s: Seconds the step took.
        memory_bytes: Memory that MLX holds.
    """
    return TrainingStep(
        number=state.step,
        steps=len(plan.steps),
        epoch=plan.steps[state.step - 1].epoch + 1,
        loss=state.losses[-1],
        learning_rate=plan.learning_rates.at(state.step - 1),
        target_tokens=state.target_tokens[-1],
        elapsed_s=elapsed_s,
        memory_bytes=memory_bytes,
    )


def make_report(
    plan: TrainingPlan,
    state: TrainerState,
    *,
    resumed_from: int,
    processed_tokens: float,
    activation_cache: str,
    activation_cache_bytes: int,
    peak_memory_bytes: int,
    elapsed_s: float,
    prepare_s: float,
    notes: Sequence[str],
) -> TrainingReport:
    """Return the report of a training that has ended.

    Args:
        plan: The plan of the training.
        state: The state at its end.
        resumed_from: Step that it resumed from.
        processed_tokens: Tokens computed since then, padding included, on all machines.
        activation_cache: Where the activations of the frozen blocks were cached.
        activation_cache_bytes: Size of that cache.
        peak_memory_bytes: The most that MLX held.
        elapsed_s: Seconds of the whole training.
        prepare_s: Seconds before the first step.
        notes: Remarks for the user.
    """
    epochs = plan.steps[state.step - 1].epoch + 1
    epoch_losses, epoch_ends = [], []
    for epoch in range(epochs):
        steps = [i for i in range(state.step) if plan.steps[i].epoch == epoch]
        epoch_ends.append(steps[-1] + 1)
        weights = [plan.steps[i].target_weight for i in steps]
        total = sum(state.losses[i] * weight for i, weight in zip(steps, weights, strict=True))
        epoch_losses.append(total / sum(weights))
    return TrainingReport(
        samples=len(plan.trained),
        replayed_samples=len(plan.data.replay),
        dropped_samples=0,
        truncated_samples=0,
        target_tokens=target_tokens(plan.trained),
        processed_tokens=round(processed_tokens / (state.step - resumed_from) * plan.steps_per_epoch),
        epochs=epochs,
        steps=state.step,
        losses=tuple(state.losses),
        epoch_losses=tuple(epoch_losses),
        epoch_ends=tuple(epoch_ends),
        validation_losses=tuple(state.validation_losses),
        general_losses=tuple(state.general_losses),
        best_step=state.best_step,
        forward_mode=plan.forward_mode,
        fallback_reason=plan.fallback_reason,
        activation_cache=activation_cache,
        activation_cache_bytes=activation_cache_bytes,
        peak_memory_bytes=peak_memory_bytes,
        estimated_memory_bytes=plan.memory.estimated_peak_bytes,
        elapsed_s=elapsed_s,
        prepare_s=prepare_s,
        resumed_from=resumed_from,
        notes=tuple(notes),
    )
