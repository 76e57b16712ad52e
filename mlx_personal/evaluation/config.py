"""Settings of the evaluation, importable without MLX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Largest denominator of the held-out fraction. Its inverse is the smallest fraction.
MAX_DENOMINATOR: Final = 20


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of the held-out split and of the comparison.

    Attributes:
        holdout_ratio: Fraction of the groups of near-duplicates that is held out, 0.05 to 0.5, rounded to the nearest
            fraction with a denominator of at most 20.
        max_tokens: Maximum number of tokens of a generated answer.
        seed: Random seed of the split and of the bootstrap. A change of the seed or of `holdout_ratio` applies to new
            groups only.

    Raises:
        ValueError: If a setting is out of its range.
    """

    holdout_ratio: float = 0.1
    max_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 / MAX_DENOMINATOR <= self.holdout_ratio <= 0.5:
            raise ValueError(f"holdout_ratio is {self.holdout_ratio}; it must lie in {1 / MAX_DENOMINATOR}..0.5")
        if not 1 <= self.max_tokens <= 100_000:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must lie in 1..100,000")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must lie in 0..{2**63 - 1:,}")
