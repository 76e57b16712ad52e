"""What a run computes, and the settings that determine a user's results besides the user, the method and the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlx_personal.augmentation.config import AugmentConfig
from mlx_personal.augmentation.server import Server
from mlx_personal.finetune import LoRAConfig
from mlx_personal.research.hashing import digest

# Increase it whenever the same settings lead to another result.
PROTOCOL: Final = 2

# The training settings of OPPU [Tan24]: 2 epochs of rank 8 and alpha 8, batches of 16, a learning rate of 1e-4 after a
# warmup over a tenth of the steps, then a linear decay. As everywhere in this package the adapter is on every linear
# layer; OPPU's is on queries and values.
OPPU_TRAINING: Final = LoRAConfig(
    alpha=8.0, learning_rate=1e-4, epochs=2, batch_size=16, lr_scheduler_type="linear", warmup_ratio=0.1
)
# OPPU's first stage trains three epochs on other users' queries.
TASK_ADAPTER_TRAINING: Final = dataclasses.replace(OPPU_TRAINING, epochs=3)


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
        """Return the settings as a JSON object, with a hash in place of the words that are never sent."""
        words = self.augment.redacted_words
        augment = dataclasses.replace(self.augment, redacted_words=(digest(sorted(words)),) if words else ())
        return {**vars(self), "augment": augment.to_json()}


@dataclass(frozen=True)
class LampSpec:
    """What to run.

    Attributes:
        task: Name of the task, such as `2M`.
        methods: Names of the methods, see `methods`.
        model: Base model: a folder, or a repository of the Hugging Face hub.
        questions: LaMP's questions, alone or merged with their outputs, or OPPU's history.
        outputs: Gold answers of LaMP's questions; None where `questions` contains them.
        num_users: Number of users, from the first in the file; None for all.
        others: Questions or history of other users. An adapter is trained on their queries and fused with the base
            model before everything else (OPPU's first stage); None for the base model as it is.
        others_outputs: Gold answers of the other users' questions.
        others_training: Training settings of that adapter.
        server: Writes synthetic records and answers for `cloud`; None if the base model writes the records itself.
        token_budget: Maximum tokens that the server may cost; None for no limit.
        server_answer_tokens: Maximum tokens of the server's answers for `cloud`, its reasoning included; None for those
            of `config`.
        config: Settings that decide the results.
    """

    task: str
    methods: Sequence[str]
    model: str
    questions: Path
    outputs: Path | None = None
    num_users: int | None = None
    others: Path | None = None
    others_outputs: Path | None = None
    others_training: LoRAConfig = TASK_ADAPTER_TRAINING
    server: Server | None = None
    token_budget: int | None = None
    server_answer_tokens: int | None = None
    config: LampConfig = field(default_factory=LampConfig)
