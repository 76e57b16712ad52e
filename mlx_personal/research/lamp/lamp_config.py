"""The settings that determine a user's results, besides the user, the method and the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from mlx_personal.augmentation.config import AugmentConfig
from mlx_personal.finetune import LoRAConfig

# Increase it whenever the same settings lead to another result.
PROTOCOL: Final = 1

# The training settings of OPPU [Tan24]: 2 epochs of rank 8 and alpha 8, batches of 16, a learning rate of 1e-4 after a
# warmup over a tenth of the steps, then a linear decay. As everywhere in this package the adapter is on every linear
# layer; OPPU's is on queries and values.
OPPU_TRAINING: Final = LoRAConfig(
    alpha=8.0, learning_rate=1e-4, epochs=2, batch_size=16, lr_scheduler_type="linear", warmup_ratio=0.1
)


@dataclass(frozen=True)
class LampConfig:
    """The settings of a LaMP run.

    Attributes:
        max_length: Maximum tokens of an input with items of the user in it; the default is LaMP's.
        answer_tokens: Maximum tokens of an answer; the default is LaMP's.
        choose_label: Answer with the most likely of the task's labels, instead of generated text; no effect on tasks
            without labels.
        augment: Settings of the data augmentation; its `training` is used for every adapter.
        seed: Random seed of random retrieval and of LaMP-7's training records.

    Raises:
        ValueError: If a setting is out of its range.
    """

    max_length: int = 512
    answer_tokens: int = 128
    choose_label: bool = False
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(training=OPPU_TRAINING))
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_length", "answer_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def to_json(self) -> dict[str, Any]:
        """Return the settings under the keys of version 0.1, which digests of stored results depend on."""
        return {
            "max_length": self.max_length,
            "answer_tokens": self.answer_tokens,
            "choose": self.choose_label,
            "augment": self.augment.to_json(),
            "seed": self.seed,
        }
