"""A cell: one run of a study, identified by the settings that determine its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mlx_personal.finetune import LoRAConfig
from mlx_personal.research.hashing import digest
from mlx_personal.selection.config import POLICIES

# Increase it whenever the same settings lead to another result, for example by other scores or prompts. Version 0.1 had
# 1 and 2.
PROTOCOL: Final = 3

# The base model alone, without selection, memory and training.
BASE: Final = "base"
# Everything that a user said before is kept, see `histories`.
HISTORY: Final = "history"
# Settings that do not affect these two.
_WITHOUT_EFFECT: Final[Mapping[str, tuple[str, ...]]] = {
    BASE: ("order", "strength", "received", "bins", "synthetic", "examples", "training"),
    HISTORY: ("part", "order", "strength", "received", "evaluation", "bins", "synthetic"),
}


@dataclass(frozen=True)
class Cell:
    """The settings of one run.

    A stream of dialogues goes through a selection policy. The owner accepts what is kept; an adapter is trained on it,
    and the held-out part of it decides what answers. Then all answer modes are measured on the evaluation dialogues.

    Field names are stored in files of results and are part of `key`.

    Attributes:
        data: Name of the data set, a key of `datasets.DATASETS` or, for `history`, of `histories.HISTORIES`.
        source: Revision of the data set, or the hash of the file it was read from.
        model_name: Name of the base model.
        model: Fingerprint of the base model.
        seed: Random seed of the evaluation dialogues, the stream's order, the policy, the synthesis and the training.
        policy: `base`, `history`, or a policy of `selection`.
        part: Part of the data: `all`, or its `first` or `second` half.
        order: Order of the stream: `in-order`, `shuffled` or `correlated`, see `stream`.
        strength: Strength of the correlation, 0 to 1; only for `correlated`.
        received: Dialogues in the stream.
        evaluation: Dialogues that are answered.
        answer_tokens: Maximum tokens of a generated answer.
        choices: Answers to choose from, see `EvaluationConfig`.
        bins: Bins of the buffer.
        synthetic: Synthetic dialogues per dialogue that is trained on, 0 to 9; the same number for every policy.
        examples: Kept dialogues before a question, with memory.
        training: Settings of the adapter; its seed is not used.
        user: The user of a `history`.

    Raises:
        ValueError: If a setting is out of its range.
    """

    data: str
    source: str
    model_name: str
    model: str
    seed: int
    policy: str
    part: str = "all"
    order: str = "correlated"
    strength: float = 0.9
    received: int = 900
    evaluation: int = 60
    answer_tokens: int = 64
    choices: int = 10
    bins: int = 64
    synthetic: int = 0
    examples: int = 2
    training: LoRAConfig = field(default_factory=LoRAConfig)
    user: str = ""

    def __post_init__(self) -> None:
        known = (BASE, HISTORY, *POLICIES)
        if self.policy not in known:
            raise ValueError(f"the policy is {self.policy!r}; it must be one of {', '.join(known)}")
        for name in ("received", "evaluation", "answer_tokens", "bins", "examples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 2 <= self.choices <= 100:
            raise ValueError(f"choices is {self.choices}; it must lie in 2..100")
        if not 0 <= self.synthetic <= 9:
            raise ValueError(f"synthetic is {self.synthetic}; it must lie in 0..9")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"the seed is {self.seed}; it must be at least 0 and below 2^31")

    @property
    def key(self) -> str:
        """Hash of all settings that affect the result."""
        return digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the settings as stored; settings without effect are left out."""
        training = {name: value for name, value in self.training.to_json().items() if name != "seed"}
        stored = {"protocol": PROTOCOL, **dataclasses.asdict(self), "training": training}
        if self.order != "correlated":
            del stored["strength"]
        without_effect = (*_WITHOUT_EFFECT.get(self.policy, ()), *(() if self.policy == HISTORY else ("user",)))
        return {name: value for name, value in stored.items() if name not in without_effect}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Cell:
        """Return the cell that `to_json` stored; settings without effect have their defaults.

        Args:
            stored: The settings.

        Raises:
            KeyError: If a setting is missing.
            TypeError: If a setting is not known.
            ValueError: If a setting is out of its range.
        """
        settings = {name: value for name, value in stored.items() if name != "protocol"}
        if "training" in settings:
            settings["training"] = LoRAConfig.from_json(settings["training"])
        return cls(**settings)

    def text(self) -> str:
        """Return the settings that differ between the cells of a study, such as `quality on dolly, seed 0`."""
        if self.policy == HISTORY:
            return f"{self.data}, user {self.user}, seed {self.seed}"
        part = "" if self.part == "all" else f" ({self.part} half)"
        synthetic = f", {self.synthetic} synthetic" if self.synthetic else ""
        return f"{self.policy} on {self.data}{part}{synthetic}, seed {self.seed}"
