"""What a collaboration asks for, keeps and learns, but for the server: its settings, with every default."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from mlx_personal.augmentation.filters import FilterConfig
from mlx_personal.augmentation.prompting import read_prompt
from mlx_personal.augmentation.sampling import SampleBudget
from mlx_personal.finetune import LoRAConfig


@dataclass(frozen=True)
class AugmentConfig:
    """How a user's records are enlarged and learnt; ValueError for a setting that makes no sense.

    Nothing of this is public of the paper (2.2); the defaults are this project's choice.

    Args:
        k: synthetic records that are asked for, a user.
        demonstrations: the user's own records in each prompt, drawn anew for each.
        budget: most records of a user that are sent, and their tokens.
        prompt: the text that `prompting.read_prompt` gives.
        own_words: names and words that do not leave the device, whatever their case.
        filters: what is kept of what comes back.
        synthetic_weight: how much a synthetic record counts in the training's loss, where a real one counts 1.
        training: of the adapter.
        seed: of the demonstrations and the server's sampling; `training` has one of its own.
    """

    k: int = 20
    demonstrations: int = 4
    budget: SampleBudget = field(default_factory=SampleBudget)
    prompt: str = field(default_factory=read_prompt)
    own_words: tuple[str, ...] = ()
    filters: FilterConfig = field(default_factory=FilterConfig)
    synthetic_weight: float = 0.5
    training: LoRAConfig = field(default_factory=LoRAConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in (("k", 10_000), ("demonstrations", 100)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in 1..{most:,}")
        if not 0 < self.synthetic_weight <= 1:
            raise ValueError(f"synthetic_weight is {self.synthetic_weight}; it must be above 0 and at most 1")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"the seed is {self.seed}; it must lie in 0..2^31, the end left out")

    def to_json(self) -> dict[str, Any]:
        """All settings, as JSON has them; equal settings give equal JSON."""
        plain = {**dataclasses.asdict(self), "training": self.training.to_json()}
        plain["filters"]["off"] = sorted(self.filters.off)
        plain["own_words"] = sorted(self.own_words)
        return plain
