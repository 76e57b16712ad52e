"""The settings of fine-tuning.

Rank, alpha, dropout and learning rate are the paper's (paper 1, 4.1). Batch size and epochs are not, nor is what is
adapted: the paper's code takes the attention projections and rows of up to 512 tokens, here every linear layer of the
blocks is adapted (mlx-lm's default) and rows reach 1,024 tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_RANGES = {
    "rank": (1, 1024),
    "epochs": (1, 1000),
    "batch_size": (1, 1024),
    "batch_tokens": (1, 1_000_000),
    "max_tokens": (2, 100_000),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class LoRAConfig:
    """What adapter to train and how; ValueError for a setting that makes no sense.

    Args:
        rank: of the two matrices of each adapted layer.
        alpha: the adapter's output is multiplied by alpha / rank.
        dropout: share of the adapter's inputs set to 0 in training.
        learning_rate: of AdamW, at its peak.
        epochs: times every row is trained on.
        batch_size: rows a step, at most. The paper's 128 would be a handful of steps on a personal data set.
        batch_tokens: tokens a step, padding included, at most; a longer row is a step of its own. Memory follows it.
        max_tokens: longest row; a longer one loses its beginning.
        num_layers: blocks adapted, counted from the last; -1 is all.
        seed: of the adapter's first weights, the dropout and the order of the rows.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    learning_rate: float = 3e-4
    epochs: int = 3
    batch_size: int = 8
    batch_tokens: int = 2048
    max_tokens: int = 1024
    num_layers: int = -1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in {least:,}..{most:,}")
        for name in ("alpha", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0 and finite")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must lie in 0..1, 1 left out")
        if self.num_layers != -1 and not 1 <= self.num_layers <= 1000:
            raise ValueError(f"num_layers is {self.num_layers}; it must lie in 1..1,000, or be -1 for all")

    @property
    def lora_parameters(self) -> dict[str, float]:
        """The adapter's settings under mlx-lm's names, whose `scale` is alpha / rank."""
        return {"rank": self.rank, "scale": self.alpha / self.rank, "dropout": self.dropout}
