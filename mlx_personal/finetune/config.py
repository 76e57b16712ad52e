"""The settings of fine-tuning; the defaults are the paper's (paper 1, 4.1), but for batch size and epochs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LoRAConfig:
    """What adapter to train and how; ValueError for a setting that makes no sense.

    Args:
        rank: of the two matrices of each adapted layer.
        alpha: the adapter's output is multiplied by alpha / rank.
        dropout: share of the adapter's inputs set to 0 in training.
        learning_rate: of AdamW, at its peak.
        epochs: times every row is trained on.
        batch_size: rows a step. The paper's 128 would be a handful of steps on a personal data set.
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
    max_tokens: int = 1024
    num_layers: int = -1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rank", 1), ("epochs", 1), ("batch_size", 1), ("max_tokens", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("alpha", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must lie in 0..1, 1 left out")
        if self.num_layers < 1 and self.num_layers != -1:
            raise ValueError(f"num_layers is {self.num_layers}; it must be at least 1, or -1 for all")

    @property
    def lora_parameters(self) -> dict[str, float]:
        """The adapter's settings under mlx-lm's names, whose `scale` is alpha / rank."""
        return {"rank": self.rank, "scale": self.alpha / self.rank, "dropout": self.dropout}
