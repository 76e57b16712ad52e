"""Settings of the evaluation, importable without MLX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Largest denominator of the held-out fraction. Its inverse is the smallest fraction.
MAX_DENOMINATOR: Final = 20
# The rules by which an adapter is promoted.
PROMOTION_RULES: Final = ("likelihood", "choice", "rouge1")
# With fewer held-out dialogues nothing is decided: the 95 % interval of so few is too narrow, and that of a single one
# has no width at all.
MIN_HELD_OUT: Final = 5


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of the held-out split and of the comparison.

    Attributes:
        holdout_ratio: Fraction of the groups of near-duplicates that is held out, 0.05 to 0.5, rounded to the nearest
            fraction with a denominator of at most 20.
        initial_holdout_ratio: Fraction of the first 25 groups that is held out, if it is more than `holdout_ratio`.
        max_tokens: Maximum number of tokens of a generated answer.
        seed: Random seed of the split, of the questions that are compared, and of the bootstrap. A change of the seed
            or of `holdout_ratio` applies to new groups only.
        choices: Maximum number of answers among which a model is to find the preferred one, at least 2; 0 leaves this
            comparison out.
        other_questions: Number of other questions after which each preferred answer is computed, for the specificity;
            0 leaves it out.
        promotion: What decides whether an adapter is promoted: `likelihood`, `choice` or `rouge1`.

    Raises:
        ValueError: If a setting is out of its range.
    """

    holdout_ratio: float = 0.1
    initial_holdout_ratio: float = 0.2
    max_tokens: int = 256
    seed: int = 0
    choices: int = 20
    other_questions: int = 4
    promotion: str = "likelihood"

    def __post_init__(self) -> None:
        for name in ("holdout_ratio", "initial_holdout_ratio"):
            if not 1 / MAX_DENOMINATOR <= getattr(self, name) <= 0.5:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in {1 / MAX_DENOMINATOR}..0.5")
        if not 1 <= self.max_tokens <= 100_000:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must lie in 1..100,000")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must lie in 0..{2**63 - 1:,}")
        if self.choices != 0 and not 2 <= self.choices <= 100:
            raise ValueError(f"choices is {self.choices}; it must be 0 or lie in 2..100")
        if not 0 <= self.other_questions <= 100:
            raise ValueError(f"other_questions is {self.other_questions}; it must lie in 0..100")
        if self.promotion not in PROMOTION_RULES:
            raise ValueError(f"promotion is {self.promotion!r}; it must be {', '.join(PROMOTION_RULES[:-1])} or rouge1")
        if self.promotion == "choice" and self.choices == 0:
            raise ValueError("choices is 0, and promotion is 'choice': it needs at least 2 choices")
