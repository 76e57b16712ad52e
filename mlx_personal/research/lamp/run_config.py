"""What decides a user's results beside the user, the method and the model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Final

from mlx_personal.augmentation.config import AugmentConfig
from mlx_personal.finetune import LoRAConfig

# To be raised whenever the same settings come to mean another computation.
PROTOCOL: Final = 1

# OPPU's: 2 epochs of rank 8 and alpha 8, batches of 16, 1e-4 after a tenth of the steps, then falling in a line.
# Like all adapters here it is on every linear layer; OPPU's is on queries and values.
OPPU: Final = LoRAConfig(alpha=8.0, learning_rate=1e-4, epochs=2, batch_size=16, schedule="linear", warmup=0.1)


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run; ValueError for one that makes no sense.

    Args:
        max_length: tokens of an input with the user's items in it (LaMP's default).
        answer_tokens: the longest answer (LaMP's default).
        choose: of the task's labels the likeliest answers, instead of what the model writes; no effect without labels.
        augment: how records are enlarged; its `training` is that of every adapter.
        seed: of random retrieval and of what `augment` draws.
    """

    max_length: int = 512
    answer_tokens: int = 128
    choose: bool = False
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(training=OPPU))
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_length", "answer_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def to_json(self) -> dict[str, Any]:
        """All settings, as JSON has them."""
        return {**dataclasses.asdict(self), "augment": self.augment.to_json()}


def digest(value: Any) -> str:
    """A hash of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
