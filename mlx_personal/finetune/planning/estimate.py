"""What a training will do and take, told without doing it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_personal.dialogue import Dialogue
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.data.dataset import Example, prepare_data
from mlx_personal.finetune.data.samples import target_tokens
from mlx_personal.finetune.planning.memory import MemoryPlan, plan_memory
from mlx_personal.models import LanguageModel
from mlx_personal.runtime.memory import physical_memory_bytes, usable_memory_bytes


@dataclass(frozen=True)
class TrainingEstimate:
    """A training as it would begin now.

    Args:
        samples: learnt in each epoch, replayed general ones included; `replayed_samples` are those.
        validation_samples, general_samples: the owner's held-out rows, and general ones to measure what is forgotten.
        dropped_samples, truncated_samples: have nothing to learn; lose their beginning.
        target_tokens: learnt in one epoch.
        steps: in all epochs, if it does not stop early.
        blocks, frozen_blocks: of the model; those below the first adapted one, which are computed once a row.
        plan: how it will use memory, and the most it is expected to hold.
        usable_memory_bytes: that MLX may take here; None where nothing tells.
        machine_memory_bytes: of the whole machine; of a GPU with its own, that is not this.
        notes: what the owner should know, a line each.
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
    blocks: int
    frozen_blocks: int
    plan: MemoryPlan
    usable_memory_bytes: int | None
    machine_memory_bytes: int | None
    notes: tuple[str, ...]


def estimate_training(
    lm: LanguageModel,
    examples: Sequence[Example],
    config: LoRAConfig,
    general: Sequence[Dialogue] = (),
) -> TrainingEstimate:
    """What `finetune` would do with the same arguments. The weights of a model that was loaded lazily stay unread.

    UserError where `finetune` would have it before it begins: nothing to learn, or not enough memory.
    """
    lm.detach_adapter()
    prepared = prepare_data(lm, examples, config, general)
    data = prepared.data
    learnt = [*data.train, *data.replay]
    blocks = len(lm.model.layers)
    return TrainingEstimate(
        samples=len(learnt),
        replayed_samples=len(data.replay),
        validation_samples=len(data.validation),
        general_samples=len(data.general),
        dropped_samples=prepared.dropped,
        truncated_samples=prepared.truncated,
        target_tokens=target_tokens(learnt),
        epochs=config.epochs,
        steps=math.ceil(len(learnt) / config.effective_batch_size) * config.epochs,
        blocks=blocks,
        frozen_blocks=0 if config.num_layers == -1 else max(0, blocks - config.num_layers),
        plan=plan_memory(lm, data, config),
        usable_memory_bytes=usable_memory_bytes(),
        machine_memory_bytes=physical_memory_bytes(),
        notes=prepared.notes,
    )
