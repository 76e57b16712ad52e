"""The plan of a training run: everything that its settings and samples determine, computed before the loop."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.data.batching import bucketed_steps, interleaved_steps, shuffled_steps, units_of
from mlx_personal.finetune.data.samples import Sample, TrainingData, count_target_tokens, total_target_weight
from mlx_personal.finetune.distributed import ProcessGroup
from mlx_personal.finetune.forward.equivalence import FORWARD_MODES, ForwardMode, select_mode_cached, select_probe
from mlx_personal.finetune.forward.preferences import BatchObjective
from mlx_personal.finetune.planning.memory import MemoryPlan, SampleSizes, fastest_plan, model_spec
from mlx_personal.finetune.schedule import LearningRateSchedule
from mlx_personal.models import LanguageModel
from mlx_personal.runtime.memory import usable_memory_bytes

logger = logging.getLogger(__name__)

PlanMemory = Callable[[ForwardMode], MemoryPlan]
"""Plans the memory of a training run that is computed in a forward mode."""

SampleOrder = Callable[[int], Sequence[Sequence[int]]]
"""Returns the indices of the samples of each step of an epoch, which is counted from 0."""


@dataclass(frozen=True)
class PlannedStep:
    """One optimizer step.

    Attributes:
        epoch: The epoch, from 0.
        indices: Indices of its samples; those of a pair are consecutive.
        target_tokens: Number of target tokens of these samples.
        target_weight: Sum of the weights of their targets.
        pair_count: Number of preference pairs among them.
    """

    epoch: int
    indices: tuple[int, ...]
    target_tokens: int
    target_weight: float
    pair_count: int = 0

    @property
    def loss_weight(self) -> float:
        """The weight of the step's loss in the mean of an epoch, by which sums are divided."""
        return self.pair_count or self.target_weight


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that a training run depends on, except for the model.

    Attributes:
        data: The samples.
        config: The settings, which the loop does not read itself.
        memory: The use of memory: tokens of a micro-batch, gradient checkpointing, size of the activation cache.
        probe: Indices in `data.all` of the samples of the equivalence check.
        order: The samples of each step; None for a random order that depends on the forward mode.
        forward_mode: The forward mode; before `select_forward_mode` the fastest one, or `plain` to use no other.
        fallback_reason: Why a faster mode is not used; empty for the fastest.
        plan_memory_for: Plans the memory again for a slower forward mode, which needs more; None to keep `memory`.
    """

    data: TrainingData
    config: LoRAConfig
    memory: MemoryPlan
    probe: tuple[int, ...]
    order: SampleOrder | None = None
    forward_mode: ForwardMode = FORWARD_MODES[0]
    fallback_reason: str = ""
    plan_memory_for: PlanMemory | None = None

    @functools.cached_property
    def trained(self) -> list[Sample]:
        """The samples that are trained on, to which `PlannedStep.indices` refer."""
        return self.data.trained

    @functools.cached_property
    def lengths(self) -> list[int]:
        """Number of tokens of each sample that is trained on."""
        return [len(sample) for sample in self.trained]

    @functools.cached_property
    def steps(self) -> list[PlannedStep]:
        """The optimizer steps of all epochs."""
        order = self.order or self._random_order
        steps = []
        for epoch in range(self.config.epochs):
            for indices in order(epoch):
                samples = [self.trained[i] for i in indices]
                tokens, weight = count_target_tokens(samples), total_target_weight(samples)
                pair_count = sum(index in self.objective.chosen for index in indices)
                steps.append(PlannedStep(epoch, tuple(indices), tokens, weight, pair_count))
        return steps

    @functools.cached_property
    def objective(self) -> BatchObjective:
        """The preference pairs and their loss; without pairs it is the cross entropy."""
        chosen = self.data.chosen
        return BatchObjective(chosen, self.config.objective if chosen else "sft", self.config.beta)

    @property
    def cross_entropy_weight(self) -> float:
        """Weight of the mean cross entropy in the loss of a step."""
        return self.config.rpo_alpha if self.objective.name == "sft+dpo" else 1.0

    def cross_entropy_factor(self, step: PlannedStep) -> float:
        """Return the factor of the sum of the cross entropies of a step, before its sums are divided by `loss_weight`.

        Args:
            step: The step.
        """
        if not step.target_weight:
            return 0.0
        return self.cross_entropy_weight * step.loss_weight / step.target_weight

    def mean_loss(self, sums: Sequence[float], target_weight: float, pair_count: int) -> float:
        """Return the loss of some samples.

        Args:
            sums: The sums of `BatchObjective.sums` over these samples.
            target_weight: Sum of the weights of their targets.
            pair_count: Number of pairs among them.
        """
        loss = self.cross_entropy_weight * sums[0] / target_weight if target_weight else 0.0
        return loss + sums[1] / pair_count if pair_count else loss

    def shard(self, step: PlannedStep, process_group: ProcessGroup) -> list[int]:
        """Return the samples of a step that this process computes; it computes both samples of a pair or none.

        Args:
            step: The step.
            process_group: The processes that train together.
        """
        units = units_of(step.indices, self.objective.chosen)
        lengths = [sum(self.lengths[index] for index in unit) for unit in units]
        return [index for place in process_group.shard(range(len(units)), lengths) for index in units[place]]

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps of the first epoch."""
        return sum(step.epoch == 0 for step in self.steps)

    @functools.cached_property
    def learning_rates(self) -> LearningRateSchedule:
        """The learning rate of each step."""
        return self.config.learning_rate_schedule(len(self.steps))

    @property
    def share_prefixes(self) -> bool:
        """Whether packed samples compute a common prefix of their prompts once."""
        # With dropout they would also share the dropout mask of the prefix.
        return self.config.dropout == 0

    @property
    def save_every(self) -> int:
        """Number of steps between two checkpoints."""
        return self.config.save_every

    @property
    def patience(self) -> int | None:
        """Number of epochs without a better validation loss after which training stops; None never stops early."""
        return self.config.early_stopping_patience or None

    @property
    def seed(self) -> int:
        """Random seed of the training run."""
        return self.config.seed

    def is_last_of_epoch(self, number: int) -> bool:
        """Return whether an epoch ends with a step.

        Args:
            number: The step, from 1.
        """
        return number == len(self.steps) or self.steps[number].epoch != self.steps[number - 1].epoch

    def attach_adapter(self, lm: LanguageModel) -> None:
        """Attach a new adapter to a model.

        Args:
            lm: The base model.

        Raises:
            UserError: If the model does not support such an adapter.
        """
        config = self.config
        lm.attach_new_adapter(config.num_layers, config.lora_parameters, config.seed, config.use_dora)

    def _random_order(self, epoch: int) -> list[list[int]]:
        batch_size, seed = self.config.effective_batch_size, self.config.seed
        if self.data.pairs:
            return interleaved_steps(self.data.single_count, len(self.data.pairs), batch_size, seed, epoch)
        if self.forward_mode == "packed":
            return shuffled_steps(len(self.trained), batch_size, seed, epoch)
        return bucketed_steps(self.lengths, batch_size, seed, epoch)


def plan_training(
    data: TrainingData,
    config: LoRAConfig,
    memory: MemoryPlan | None = None,
    order: SampleOrder | None = None,
    probe: Sequence[int] | None = None,
) -> TrainingPlan:
    """Plan a training run without the model.

    Args:
        data: The samples.
        config: The settings.
        memory: The use of memory; `plan_memory` plans one that fits the machine.
        order: The samples of each step; by default every sample once per epoch, in random order.
        probe: Indices of the samples of the equivalence check; None for those of `select_probe`.

    Returns:
        The plan.
    """
    if probe is None:
        probe = select_probe(data.all) if data.all else ()
    return TrainingPlan(data, config, memory or MemoryPlan(), tuple(probe), order)


def plan_for_model(lm: LanguageModel, data: TrainingData, config: LoRAConfig) -> TrainingPlan:
    """Plan a training run of a model within the memory of this machine, without reading the weights of a lazy model.

    Args:
        lm: The base model.
        data: The samples.
        config: The settings.

    Returns:
        The plan.

    Raises:
        UserError: If the training run does not fit into memory.
    """
    probe = select_probe(data.all)
    spec, sizes = model_spec(lm), SampleSizes.from_data(data, probe)

    def plan_memory_for(mode: ForwardMode) -> MemoryPlan:
        return fastest_plan(spec, sizes, config, usable_memory_bytes(), mode)

    plan = plan_training(data, config, plan_memory_for(FORWARD_MODES[0]), probe=probe)
    return dataclasses.replace(plan, plan_memory_for=plan_memory_for)


def select_forward_mode(lm: LanguageModel, plan: TrainingPlan, process_group: ProcessGroup) -> TrainingPlan:
    """Select the fastest forward mode that agrees with mlx-lm's forward pass on all machines.

    Args:
        lm: The model with the adapter to train.
        plan: The plan.
        process_group: The processes that train together.

    Returns:
        The plan with the forward mode.

    Raises:
        UserError: If the base model's loss is not finite, or the slower mode needs more memory than there is.
    """
    if plan.forward_mode == FORWARD_MODES[-1]:
        return plan
    selection = select_mode_cached(lm, plan.config, plan.data.all, plan.probe)
    mode, reason = max(
        process_group.all_gather([selection.mode, selection.fallback_reason]),
        key=lambda selected: FORWARD_MODES.index(selected[0]),
    )
    if reason:
        logger.info("forward mode %s: %s", mode, reason)
    memory = plan.memory
    if mode != plan.forward_mode and plan.plan_memory_for is not None:
        memory = plan.plan_memory_for(mode)
    return dataclasses.replace(plan, memory=memory, forward_mode=mode, fallback_reason=reason)
