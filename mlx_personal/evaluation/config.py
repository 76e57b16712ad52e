"""The settings of evaluation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationConfig:
    """What is set aside and how answers are compared; ValueError for a setting that makes no sense.

    Args:
        share: of the annotated dialogues that is set aside, above 0 and at most 0.5.
        max_tokens: the longest generated answer.
        seed: of the split and of the bootstrap. Changing it would let held-out dialogues into the training set.
    """

    share: float = 0.1
    max_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 0.5:
            raise ValueError(f"share is {self.share}; it must lie above 0 and be at most 0.5")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be positive")
        if self.seed < 0:
            raise ValueError(f"the seed is {self.seed}; it must not be negative")
