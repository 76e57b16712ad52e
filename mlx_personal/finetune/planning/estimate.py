"""Estimate a training run without running it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_personal.dialogue import Dialogue
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.data.dataset import prepare_data
from mlx_personal.finetune.data.examples import Example, PreferencePair
from mlx_personal.finetune.data.samples import count_target_tokens
from mlx_personal.finetune.planning.memory import MemoryPlan, plan_memory
from mlx_personal.models import LanguageModel
from mlx_personal.runtime.memory import physical_memory_bytes, usable_memory_bytes


@dataclass(frozen=True)
class TrainingEstimate:
    """A training run as it would start now.

    Attributes:
        samples: Number of samples of each epoch, including replayed general ones; a preference pair counts as one.
        replayed_samples: Number of general samples among them.
        validation_samples: Number of validation samples; a preference pair counts as one.
        general_samples: Number of general samples that measure forgetting.
        dropped_samples: Number of samples left out because they have no target.
        truncated_samples: Number of samples truncated from the left.
        target_tokens: Number of target tokens of an epoch.
        epochs: Number of epochs.
        steps: Number of steps of all epochs, if training does not stop early.
        layers: Number of layers of the model.
        frozen_layers: Number of layers below the first adapted one, which are computed once per sample.
        plan: The use of memory, and its expected peak.
        usable_memory_bytes: Memory that MLX can use; None if it is not known.
        machine_memory_bytes: Memory of the whole machine, without a GPU's own; None if it is not known.
        notes: Notes for the user, one sentence each.
        objective: What is minimized.
        pairs: Number of preference pairs of each epoch.
    """

    samples: int
    replayed_samples: int
    validation_samples: int
    general_samples: int
    dropped_samples: int
    truncated_samples: int
    target_tokens: int
    epochs: int
    steps: int
    layers: int
    frozen_layers: int
    plan: MemoryPlan
    usable_memory_bytes: int | None
    machine_memory_bytes: int | None
    notes: tuple[str, ...]
    objective: str = "sft"
    pairs: int = 0


def estimate_training(
    lm: LanguageModel,
    examples: Sequence[Example],
    config: LoRAConfig,
    general: Sequence[Dialogue] = (),
    pairs: Sequence[PreferencePair] = (),
) -> TrainingEstimate:
    """Estimate a run of `finetune` with the same arguments, without reading the weights of a lazy model.

    Args:
        lm: The base model; its adapter is detached, if it has one.
        examples: The training examples.
        config: The settings.
        general: General dialogues, for replay and for measuring forgetting.
        pairs: Preference pairs, which only an objective with pairs uses.

    Returns:
        The estimate.

    Raises:
        UserError: If there are no samples, or not enough memory.
    """
    lm.detach_adapter()
    prepared = prepare_data(lm, examples, config, general, pairs)
    data = prepared.data
    count = data.single_count + len(data.pairs)
    layers = len(lm.model.layers)
    return TrainingEstimate(
        samples=count,
        replayed_samples=len(data.replay),
        validation_samples=len(data.validation) + len(data.validation_pairs),
        general_samples=len(data.general),
        dropped_samples=prepared.dropped,
        truncated_samples=prepared.truncated,
        target_tokens=count_target_tokens(data.trained),
        epochs=config.epochs,
        steps=math.ceil(count / config.effective_batch_size) * config.epochs,
        layers=layers,
        frozen_layers=0 if config.num_layers == -1 else max(0, layers - config.num_layers),
        plan=plan_memory(lm, data, config),
        usable_memory_bytes=usable_memory_bytes(),
        machine_memory_bytes=physical_memory_bytes(),
        notes=prepared.notes,
        objective=config.objective,
        pairs=len(data.pairs),
    )
