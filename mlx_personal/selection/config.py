"""Settings of the selection, importable without MLX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SCORE_NAMES: Final = ("eoe", "dss", "idd")
# The policy whose sample of the stream has to be stored with the buffer.
SAMPLING_POLICY: Final = "facility-location"
# The rule of [Qin24 §3.2], this project's own policies, the baselines of [Qin24 §4.1], and its ablation to single
# scores.
POLICIES: Final = ("quality", SAMPLING_POLICY, "weighted", "random", "fifo", "k-center", *SCORE_NAMES)
IDD_MODES: Final = ("fresh", "arrival")


@dataclass(frozen=True)
class SelectionConfig:
    """Settings of the selection.

    Attributes:
        bins: Number of bins of the buffer.
        policy: Policy that decides which bin is replaced, a name in `POLICIES`.
        near_duplicate: ROUGE-1 between the texts of two dialogues, 0..1, from which the later one is rejected as a
            near-duplicate.
        idd: How the IDD of a bin is computed, a name in `IDD_MODES`, see `Buffer`.
        seed: Random seed of the policy.

    Raises:
        ValueError: If a setting is out of its range.
    """

    bins: int = 128
    policy: str = "quality"
    near_duplicate: float = 0.9
    idd: str = "fresh"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.bins <= 65536:
            raise ValueError(f"bins is {self.bins}; it must lie in 1..65,536")
        if self.policy not in POLICIES:
            raise ValueError(f"policy is {self.policy!r}; it must be one of {', '.join(POLICIES)}")
        if not 0 < self.near_duplicate <= 1:
            raise ValueError(f"near_duplicate is {self.near_duplicate}; it must be above 0 and at most 1")
        if self.idd not in IDD_MODES:
            raise ValueError(f"idd is {self.idd!r}; it must be one of {', '.join(IDD_MODES)}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must lie in 0..{2**63 - 1:,}")
