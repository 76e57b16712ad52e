"""The records of a training run: one for each optimizer step, and the report at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlx_personal.finetune.data.samples import count_target_tokens
from mlx_personal.finetune.forward.preferences import STATISTICS

if TYPE_CHECKING:
    from mlx_personal.finetune.plan import TrainingPlan
    from mlx_personal.finetune.trainer_state import TrainerState


@dataclass(frozen=True)
class TrainingStep:
    """One optimizer step.

    Attributes:
        number: The step, from 1.
        steps: Number of steps of the whole training run.
        epoch: The epoch, from 1.
        loss: Loss of the step before the update: the weighted mean cross entropy of its targets in nats; with
            preference pairs see `forward.preferences`.
        learning_rate: Learning rate of the update.
        target_tokens: Number of target tokens of the step.
        elapsed_s: Duration of the step in seconds.
        memory_bytes: Active memory of MLX after the step.
        power_watts: Mean power during the step; None if it was not measured. `train` does not measure it.
        reward_margin: Mean of `rewards/margins` over the step's preference pairs; None without pairs.
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
    reward_margin: float | None = None


@dataclass(frozen=True)
class TrainingReport:
    """The results of a training run.

    Losses are weighted mean cross entropies per target token in nats; with preference pairs see `forward.preferences`.

    Attributes:
        samples: Number of samples of each epoch, including replayed general ones; a preference pair counts as one.
        replayed_samples: Number of general samples among them.
        dropped_samples: Number of samples left out because they have no target.
        truncated_samples: Number of samples truncated from the left.
        target_tokens: Number of target tokens of an epoch.
        processed_tokens: Number of tokens computed in an epoch, including padding; 0 if the training had finished
            before this run, which only wrote the adapter.
        epochs: Number of completed epochs; fewer than configured after early stopping.
        steps: Number of completed optimizer steps.
        losses: Loss of each step.
        epoch_losses: Mean loss of each epoch.
        epoch_ends: Last step of each epoch.
        validation_losses: (step, loss) on the validation samples.
        general_losses: (step, loss) on the general samples that measure forgetting.
        best_step: Step whose adapter was kept; the last one without validation data.
        forward_mode: The forward mode, see `forward.equivalence`.
        fallback_reason: Why a faster mode was not used; empty for the fastest.
        activation_cache: Where the outputs of the frozen layers were cached: `memory`, `file` or `nowhere`.
        activation_cache_bytes: Size of these outputs.
        peak_memory_bytes: Peak memory of MLX.
        estimated_memory_bytes: Estimate of the peak before training; None if there was none.
        elapsed_s: Seconds of the whole training run.
        prepare_s: Seconds before the first step.
        resumed_from: Step of the checkpoint that the run resumed from; 0 for none.
        notes: Notes for the user, one line each.
        has_effect: Whether the adapter changes what the model computes.
        pairs: Number of preference pairs of each epoch.
        rewards: Statistics of these pairs by trl's names, such as `rewards/margins`: the mean of each epoch, before
            each update. Empty without pairs.
        validation_rewards: (step, mean) of the same on the validation pairs, with the prefix `eval_` of trl.
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
    has_effect: bool = True
    pairs: int = 0
    rewards: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    validation_rewards: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)

    @property
    def forgetting(self) -> float | None:
        """Relative increase of the loss on general dialogues; None if it was not measured."""
        return forgetting(self.general_losses, self.best_step)


def forgetting(general_losses: Sequence[Sequence[float]], best_step: int) -> float | None:
    """Return the relative increase of the loss on general dialogues since before training.

    Args:
        general_losses: (step, loss) pairs of a report or of a stored run; step 0 is before training.
        best_step: Step whose adapter was kept.

    Returns:
        The relative increase; None without general losses.
    """
    loss_by_step = {step: loss for step, loss in general_losses}
    return loss_by_step[best_step] / loss_by_step[0] - 1 if loss_by_step else None


def make_step(plan: TrainingPlan, state: TrainerState, elapsed_s: float, memory_bytes: int) -> TrainingStep:
    """Return the record of the last completed step.

    Args:
        plan: The plan of the training run.
        state: The state after the step.
        elapsed_s: Duration of the step in seconds.
        memory_bytes: Active memory of MLX.
    """
    statistics = state.pair_statistics[-1] if state.pair_statistics else []
    return TrainingStep(
        number=state.step,
        steps=len(plan.steps),
        epoch=plan.steps[state.step - 1].epoch + 1,
        loss=state.losses[-1],
        learning_rate=plan.learning_rates.at(state.step - 1),
        target_tokens=state.target_tokens[-1],
        elapsed_s=elapsed_s,
        memory_bytes=memory_bytes,
        reward_margin=statistics[STATISTICS.index("rewards/margins")] if statistics else None,
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
    """Return the report of a completed training run.

    Args:
        plan: The plan of the training run.
        state: The state at its end.
        resumed_from: Step that it resumed from.
        processed_tokens: Number of tokens computed since then on all machines, including padding.
        activation_cache: Where the outputs of the frozen layers were cached.
        activation_cache_bytes: Size of these outputs.
        peak_memory_bytes: Peak memory of MLX.
        elapsed_s: Seconds of the whole training run.
        prepare_s: Seconds before the first step.
        notes: Notes for the user.
    """
    epochs, computed_steps = plan.steps[state.step - 1].epoch + 1, state.step - resumed_from
    epoch_losses, epoch_ends = [], []
    for epoch in range(epochs):
        steps = [i for i in range(state.step) if plan.steps[i].epoch == epoch]
        epoch_ends.append(steps[-1] + 1)
        # The losses of steps with pairs are sums of means over pairs and over targets.
        has_pairs = bool(plan.objective.chosen)
        weights = [len(plan.steps[i].indices) if has_pairs else plan.steps[i].target_weight for i in steps]
        total = sum(state.losses[i] * weight for i, weight in zip(steps, weights, strict=True))
        epoch_losses.append(total / sum(weights))
    return TrainingReport(
        samples=plan.data.single_count + len(plan.data.pairs),
        replayed_samples=len(plan.data.replay),
        dropped_samples=0,
        truncated_samples=0,
        target_tokens=count_target_tokens(plan.trained),
        processed_tokens=round(processed_tokens / max(computed_steps, 1) * plan.steps_per_epoch),
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
        pairs=len(plan.data.pairs),
        rewards=_epoch_rewards(plan, state, epochs),
        validation_rewards={
            f"eval_{name}": tuple((step, means[number]) for step, means in state.validation_statistics)
            for number, name in enumerate(STATISTICS)
            if state.validation_statistics
        },
    )


def _epoch_rewards(plan: TrainingPlan, state: TrainerState, epochs: int) -> dict[str, tuple[float, ...]]:
    """Return the mean of each statistic over the preference pairs of each epoch; empty without pairs."""
    sums = [[0.0] * epochs for _ in STATISTICS]
    for step, means in zip(plan.steps, state.pair_statistics, strict=False):
        for of_statistic, mean in zip(sums, means, strict=False):
            of_statistic[step.epoch] += mean * step.pair_count / len(plan.data.pairs)
    return {name: tuple(values) for name, values in zip(STATISTICS, sums, strict=True)} if plan.data.pairs else {}
