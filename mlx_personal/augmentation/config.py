"""The settings of augmentation, except those of the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlx_personal.augmentation.filters import FilterConfig
from mlx_personal.augmentation.prompting import read_prompt
from mlx_personal.augmentation.sampling import SampleBudget
from mlx_personal.finetune import LoRAConfig


@dataclass(frozen=True)
class AugmentConfig:
    """How a user's records are augmented and trained on.

    The settings of [Zhong25] are not public; the defaults are this project's choice.

    Attributes:
        num_synthetic: Synthetic records to request for each user.
        num_demonstrations: Records of the user in each prompt, sampled separately for each.
        sample_budget: Limits of the records of a user that are sent.
        prompt: Template as returned by `prompting.read_prompt`.
        redacted_words: Names and other words that never leave the device, in any case.
        filters: Settings of the filters.
        synthetic_weight: Weight of a synthetic record in the training loss; a real one weighs 1.
        training: Settings of the adapter and its training.
        seed: Random seed of the demonstrations and of the server's sampling; `training` has its own.

    Raises:
        ValueError: If a setting is out of its range.
    """

    num_synthetic: int = 20
    num_demonstrations: int = 4
    sample_budget: SampleBudget = field(default_factory=SampleBudget)
    prompt: str = field(default_factory=read_prompt)
    redacted_words: tuple[str, ...] = ()
    filters: FilterConfig = field(default_factory=FilterConfig)
    synthetic_weight: float = 0.5
    training: LoRAConfig = field(default_factory=LoRAConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in (("num_synthetic", 10_000), ("num_demonstrations", 100)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in 1..{most:,}")
        if not 0 < self.synthetic_weight <= 1:
            raise ValueError(f"synthetic_weight is {self.synthetic_weight}; it must be above 0 and at most 1")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"the seed is {self.seed}; it must be at least 0 and below 2^31")

    def to_json(self) -> dict[str, Any]:
        """Return all settings under the keys of version 0.1, which digests of stored results depend on.

        Equal settings give equal JSON.
        """
        return {
            "k": self.num_synthetic,
            "demonstrations": self.num_demonstrations,
            "budget": {"records": self.sample_budget.max_records, "tokens": self.sample_budget.max_tokens},
            "prompt": self.prompt,
            "own_words": sorted(self.redacted_words),  # codespell:ignore own_words
            "filters": self.filters.to_json(),
            "synthetic_weight": self.synthetic_weight,
            "training": self.training.to_json(),
            "seed": self.seed,
        }
