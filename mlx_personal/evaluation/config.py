"""The settings of evaluation."""

from __future__ import annotations

from dataclasses import dataclass

# The share is kept exactly in every block of at most this many groups; it is the inverse of the smallest share.
LARGEST_BLOCK = 20


@dataclass(frozen=True)
class EvaluationConfig:
    """What is set aside and how answers are compared; ValueError for a setting that makes no sense.

    Args:
        holdout_ratio: of the groups of like dialogues that is set aside, 0.05 to 0.5; it is taken as the nearest fraction
            with a denominator of at most 20.
        max_tokens: the longest generated answer.
        seed: of the split and of the bootstrap. Changing it, or the share, changes the side of no known group.
    """

    holdout_ratio: float = 0.1
    max_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 / LARGEST_BLOCK <= self.holdout_ratio <= 0.5:
            raise ValueError(f"holdout_ratio is {self.holdout_ratio}; it must lie in {1 / LARGEST_BLOCK}..0.5")
        if not 1 <= self.max_tokens <= 100_000:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must lie in 1..100,000")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"the seed is {self.seed}; it must lie in 0..2^63, the end left out")
