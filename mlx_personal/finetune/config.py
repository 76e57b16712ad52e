"""The settings of fine-tuning.

Rank, alpha, dropout and learning rate are the paper's (paper 1, 4.1). Batch size and epochs are not, nor is what is
adapted: the paper's code takes the attention projections and rows of up to 512 tokens, here every linear layer of the
blocks is adapted (mlx-lm's default) and rows reach 1,024 tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlx_personal.finetune.schedule import LearningRateSchedule

_RANGES = {
    "rank": (1, 1024),
    "epochs": (1, 1000),
    "batch_size": (1, 1024),
    "batch_tokens": (0, 1_000_000),
    "max_tokens": (2, 100_000),
    "patience": (0, 1000),
    "save_every": (1, 1_000_000),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class LoRAConfig:
    """What adapter to train and how; ValueError for a setting that makes no sense.

    Args:
        rank: of the two matrices of each adapted layer.
        alpha: the adapter's output is multiplied by alpha / rank.
        dropout: share of the adapter's inputs set to 0 in training. With 0, rows that share a prompt pay for it once.
        dora: a DoRA adapter, which learns the magnitude of each output beside its direction.
        learning_rate: of AdamW, at its peak.
        schedule: how the rate falls after the peak: `cosine`, `linear` or `constant`.
        warmup: share of the steps, 0..1, in which it rises first.
        epochs: times every row is trained on.
        batch_size: rows a step. The paper's 128 would be a handful of steps on a personal data set.
        batch_tokens: tokens computed at once; a step of more adds up the gradients of its parts, which changes nothing
            but memory and time. 0: as many as fit this machine.
        max_tokens: longest row; a longer one loses its beginning.
        num_layers: blocks adapted, counted from the last; -1 is all. Blocks below them are computed once a row.
        validation: share of the dialogues, 0..1, set aside to find the epoch after which the adapter is best.
        patience: epochs without a better validation loss after which training stops; 0 never stops early.
        general: file of general dialogues (JSON Lines, as for import), to measure and curb forgetting; empty: none.
        replay: share of the rows of an epoch, 0..1, that are general dialogues.
        forgetting: an adapter that raises the loss on general dialogues by more than this share is not promoted.
        save_every: steps after which a training's state is saved, so that it can go on after an interruption.
        seed: of the adapter's first weights, the dropout and the order of the rows.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    dora: bool = False
    learning_rate: float = 3e-4
    schedule: str = "cosine"
    warmup: float = 0.05
    epochs: int = 3
    batch_size: int = 8
    batch_tokens: int = 0
    max_tokens: int = 1024
    num_layers: int = -1
    validation: float = 0.0
    patience: int = 0
    general: str = ""
    replay: float = 0.0
    forgetting: float = 0.1
    save_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in {least:,}..{most:,}")
        for name in ("alpha", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0 and finite")
        for name in ("dropout", "validation", "replay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in 0..1, 1 left out")
        if not 0 <= self.forgetting < math.inf:
            raise ValueError(f"forgetting is {self.forgetting}; it must be 0 or more, and finite")
        self.rates(1)  # the schedule knows what makes sense for it
        if self.patience and not self.validation:
            raise ValueError("patience needs dialogues set aside: set validation above 0")
        if self.replay and not self.general:
            raise ValueError("replay needs general dialogues: name a file of them under general")
        if self.num_layers != -1 and not 1 <= self.num_layers <= 1000:
            raise ValueError(f"num_layers is {self.num_layers}; it must lie in 1..1,000, or be -1 for all")

    def rates(self, steps: int) -> LearningRateSchedule:
        """The learning rates of so many steps."""
        return LearningRateSchedule(self.schedule, self.learning_rate, steps, self.warmup)

    @property
    def lora_parameters(self) -> dict[str, float]:
        """The adapter's settings under mlx-lm's names, whose `scale` is alpha / rank."""
        return {"rank": self.rank, "scale": self.alpha / self.rank, "dropout": self.dropout}
