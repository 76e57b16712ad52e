"""How much a training computes at once and keeps, so that it fits the machine."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_personal.backend import LanguageModel
from mlx_personal.backend.device import device_name
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.rows import TrainingData


@dataclass(frozen=True)
class Plan:
    """How a training uses memory.

    Args:
        batch_tokens: computed at once.
        checkpoint: blocks keep their inputs only and are computed again for the gradient.
        cache_bytes: the frozen blocks' output may take in memory.
        estimate: bytes the training is expected to hold at most; None where nothing was estimated.
    """

    batch_tokens: int = 2048
    checkpoint: bool = False
    cache_bytes: int = 2**30
    estimate: int | None = None


def plan_for(lm: LanguageModel, data: TrainingData, config: LoRAConfig) -> Plan:
    """The fastest plan that fits this machine."""
    return Plan(batch_tokens=config.batch_tokens or 2048, checkpoint=device_name() != "cpu")
