"""The settings of fine-tuning, under the names of mlx-lm, PEFT and trl where they mean the same.

The defaults of rank, alpha, dropout and learning rate are those of [Qin24 §4.1]; those of batch size and epochs are
not. [Qin24] adapts the attention projections and truncates samples at 512 tokens; here all linear layers of the
transformer layers are adapted, as in mlx-lm, and samples have up to 1,024 tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.finetune.schedule import LearningRateSchedule

# Fields that version 0.1 stored under other names. Stored data (runs of a profile, cells of a study, digests of LaMP
# settings, checkpoints) keep those names, so that old files can be read and digests stay valid.
STORED_NAMES: Final[Mapping[str, str]] = {
    "use_dora": "dora",
    "lr_scheduler_type": "schedule",
    "warmup_ratio": "warmup",
    "micro_batch_tokens": "batch_tokens",
    "max_seq_length": "max_tokens",
    "validation_split": "validation",
    "early_stopping_patience": "patience",
    "general_data": "general",
    "replay_ratio": "replay",
    "max_forgetting": "forgetting",
}
# Fields that version 0.1 did not have: stored only where they differ from their default.
_NEW_FIELDS: Final = ("scale", "gradient_accumulation_steps", "objective", "beta", "rpo_alpha", "examples", "negatives")

OBJECTIVES: Final = ("sft", "dpo", "orpo", "sft+dpo")
EXAMPLES: Final = ("none", "as in chat")

_RANGES: Final = {
    "rank": (1, 1024),
    "epochs": (1, 1000),
    "batch_size": (1, 1024),
    "gradient_accumulation_steps": (1, 1024),
    "micro_batch_tokens": (0, 1_000_000),
    "max_seq_length": (2, 100_000),
    "early_stopping_patience": (0, 1000),
    "save_every": (1, 1_000_000),
    "negatives": (0, 16),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class LoRAConfig:
    """The settings of an adapter and of its training.

    Attributes:
        rank: Rank of the two matrices of each adapted layer.
        alpha: The adapter's output is multiplied by `alpha / rank`.
        scale: The factor itself, as in mlx-lm, instead of `alpha / rank`; 0 for none.
        dropout: Probability, 0 <= p < 1, of zeroing an input of the adapter in training. Only without dropout, packed
            samples that share a prompt compute it once.
        use_dora: Whether to train a DoRA adapter [Liu24], which also learns the magnitude of each output, instead of a
            LoRA adapter [Hu22].
        learning_rate: Peak learning rate of AdamW.
        lr_scheduler_type: Decay after the peak: `cosine`, `linear` or `constant`.
        warmup_ratio: Fraction of the steps, 0 to 1, in which the learning rate increases.
        epochs: Number of passes over the training samples.
        batch_size: Number of samples of a batch, where a preference pair counts as one. The 128 of [Qin24 §4.1] would
            leave only a few steps for a personal data set.
        gradient_accumulation_steps: Number of batches whose gradients are accumulated for one optimizer step.
        micro_batch_tokens: Maximum number of tokens computed at once; 0 for as many as fit into memory. The gradients
            of a step's micro-batches are accumulated, so this affects memory and time only.
        max_seq_length: Maximum number of tokens of a sample; a longer one is truncated from the left.
        num_layers: Number of transformer layers to adapt, counted from the last; -1 for all. The layers below them are
            frozen and computed once per sample.
        validation_split: Fraction of the examples' groups, 0 <= f < 1, used for validation to select the best epoch.
        early_stopping_patience: Number of epochs without a better validation loss after which training stops; 0 never
            stops early.
        general_data: File of general dialogues (JSON Lines) to measure and limit forgetting; empty for none.
        replay_ratio: Fraction of an epoch's samples, 0 <= f < 1, that are general dialogues.
        max_forgetting: Largest relative increase of the loss on general dialogues with which an adapter is promoted.
        save_every: Number of steps between two checkpoints.
        seed: Random seed of the adapter's initial weights, of dropout and of the order of the samples.
        objective: What is minimized: `sft`, the cross entropy of the dialogues; `dpo` [Rafailov23] or `orpo` [Hong24],
            a loss of preference pairs alone; or `sft+dpo`, the sum of the first two. See `forward.preferences`.
        beta: As in trl: for DPO the strength of the penalty for leaving the base model, for ORPO the weight of the
            odds ratio.
        rpo_alpha: Weight of the cross entropy in `sft+dpo`, as in trl.
        examples: What a profile's dialogues are trained after: `none`, or `as in chat` the nearest other dialogues that
            are trained on, by the settings of the memory. `finetune` itself takes dialogues as they are.
        negatives: Number of preference pairs for each dialogue whose rejected answer is that of another dialogue, see
            `data.negatives`; only with an objective of pairs.

    Raises:
        ValueError: If a setting is out of its range.
    """

    rank: int = 8
    alpha: float = 16.0
    scale: float = 0.0
    dropout: float = 0.05
    use_dora: bool = False
    learning_rate: float = 3e-4
    lr_scheduler_type: str = "cosine"
    warmup_ratio: float = 0.05
    epochs: int = 3
    batch_size: int = 8
    gradient_accumulation_steps: int = 1
    micro_batch_tokens: int = 0
    max_seq_length: int = 1024
    num_layers: int = -1
    validation_split: float = 0.0
    early_stopping_patience: int = 0
    general_data: str = ""
    replay_ratio: float = 0.0
    max_forgetting: float = 0.1
    save_every: int = 50
    seed: int = 0
    objective: str = "sft"
    beta: float = 0.1
    rpo_alpha: float = 1.0
    examples: str = "none"
    negatives: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in {low:,}..{high:,}")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is {self.objective!r}; it must be one of {', '.join(OBJECTIVES)}")
        if self.examples not in EXAMPLES:
            raise ValueError(f"examples is {self.examples!r}; it must be {' or '.join(map(repr, EXAMPLES))}")
        for name in ("alpha", "learning_rate", "beta", "rpo_alpha"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0 and finite")
        for name in ("dropout", "validation_split", "replay_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        for name in ("scale", "max_forgetting"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and finite")
        self.learning_rate_schedule(1)  # checks the settings of the schedule
        if self.early_stopping_patience and not self.validation_split:
            raise ValueError("early_stopping_patience needs validation data: set validation_split above 0")
        if self.replay_ratio and not self.general_data:
            raise ValueError("replay_ratio needs general dialogues: set general_data to a file of them")
        if self.negatives and not self.uses_pairs:
            raise ValueError("negatives are preference pairs: set objective to dpo, orpo or sft+dpo")
        if self.num_layers != -1 and not 1 <= self.num_layers <= 1000:
            raise ValueError(f"num_layers is {self.num_layers}; it must lie in 1..1,000, or be -1 for all")

    @property
    def uses_pairs(self) -> bool:
        """Whether the objective has a loss of preference pairs."""
        return self.objective != "sft"

    @property
    def uses_dialogues(self) -> bool:
        """Whether the objective has the cross entropy of the dialogues."""
        return self.objective in ("sft", "sft+dpo")

    @property
    def needs_dialogues(self) -> bool:
        """Whether something is learned from the dialogues, and not from the pairs that are given alone."""
        return self.uses_dialogues or self.negatives > 0

    @property
    def effective_batch_size(self) -> int:
        """Number of samples of one optimizer step."""
        return self.batch_size * self.gradient_accumulation_steps

    @property
    def lora_parameters(self) -> dict[str, float]:
        """The adapter's settings under mlx-lm's names: `rank`, `scale` and `dropout`."""
        return {"rank": self.rank, "scale": self.scale or self.alpha / self.rank, "dropout": self.dropout}

    def learning_rate_schedule(self, steps: int) -> LearningRateSchedule:
        """Return the learning rate schedule.

        Args:
            steps: Number of optimizer steps of the whole training run.
        """
        return LearningRateSchedule(self.lr_scheduler_type, self.learning_rate, steps, self.warmup_ratio)

    def to_json(self) -> dict[str, Any]:
        """Return the settings under the names that version 0.1 stored; equal settings have equal JSON."""
        default = LoRAConfig()
        values = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in _NEW_FIELDS or value != getattr(default, name)
        }
        return {STORED_NAMES.get(name, name): value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LoRAConfig:
        """Return the settings of a JSON object; those that are missing have their defaults.

        Args:
            values: The result of `to_json`.
        """
        present = {stored: name for name, stored in STORED_NAMES.items()}
        return cls(**{present.get(name, name): value for name, value in values.items()})
