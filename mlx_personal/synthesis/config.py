"""Settings of the synthesis, importable without MLX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RewriteMode = Literal["question", "both"]


@dataclass(frozen=True)
class SynthesisConfig:
    """Settings of the rewriting.

    Attributes:
        k: Number of rewrites of each dialogue; there is no gain beyond 6 [Qin24 Fig. 3].
        temperature: Sampling temperature; 0 would give k equal rewrites.
        mode: `question` rewrites the user's turns and keeps the answers; `both` rewrites all turns.
        band: Lowest and highest ROUGE-1, 0..1, of a kept rewrite against its original, both inclusive.
        max_tokens: Maximum number of tokens of a rewrite, which is also limited to about twice the length of its
            original. A longer original is not rewritten, because its rewrite would be cut off.
        seed: Random seed of the sampling.

    Raises:
        ValueError: If a setting is out of its range.
    """

    k: int = 6
    temperature: float = 0.5
    mode: RewriteMode = "question"
    # Of 2,000 pairs of paraphrases in the demo's data 92 % reach 0.3, of pairs of unrelated questions 13 %; no other
    # bound separates them better. Above 0.9, at most one word in ten is new.
    band: tuple[float, float] = (0.3, 0.9)
    max_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for name, maximum in (("k", 100), ("max_tokens", 100_000)):
            if not 1 <= getattr(self, name) <= maximum:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in 1..{maximum:,}")
        if not 0 <= self.temperature <= 5:
            raise ValueError(f"temperature is {self.temperature}; it must lie in 0..5")
        if self.mode not in ("question", "both"):
            raise ValueError(f"mode is {self.mode!r}; it must be question or both")
        if not 0 <= self.band[0] < self.band[1] <= 1:
            raise ValueError(f"band is {self.band[0]}..{self.band[1]}; it must be an interval in 0..1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must lie in 0..{2**63 - 1:,}")
