"""What a study runs: one cell, by its settings. They are its key: nothing else decides its result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mlx_personal.finetune import LoRAConfig
from mlx_personal.scoring.entropy import check_estimator
from mlx_personal.selection.weighted import DEFAULT_WEIGHT
from mlx_personal.synthesis import SynthesisConfig

# To be raised whenever the same settings come to mean another computation: other scores, prompts, topics, training.
PROTOCOL: Final = 1
# The same of a base's cells alone, which measure the one answer for all as well.
BASE_PROTOCOL: Final = 2

# The answers of the model as it came: no selection, no training.
BASE: Final = "base"
# The paper's rule (3.2), its baselines (4.1), and its ablation (Table 4).
PAPER_POLICIES: Final = ("quality", "random", "fifo", "k-center")
SINGLE_SCORES: Final = ("eoe", "dss", "idd")
# The ablation as the authors' released scripts behave, which keep LOWER scores: see `script`.
SCRIPTS: Final = ("eoe-script", "dss-script", "idd-script")
# This project's own.
OWN: Final = "weighted"
POLICIES: Final = (*PAPER_POLICIES, *SINGLE_SCORES, OWN, *SCRIPTS)

# What a cell of the base alone has none of.
_OF_A_STREAM: Final = ("bins", "received", "every", "order", "strength", "entropy")

# A bin's size: the paper's 2816 KB buffer is 128 bins (an inference, like the bin itself: paper 1, Table 4).
KB_A_BIN: Final = 22


@dataclass(frozen=True)
class Cell:
    """One run: a stream is selected from, and every `every` sets an adapter is trained from the base on what is kept.

    ValueError for a setting that makes no sense.

    Args:
        data: a name in `datasets.DATASETS`; `source`: its revision, or the hash of the file it was read from.
        model_name, model: the base's name, and its fingerprint.
        seed: of everything that is drawn: the stream's order, the policy, the synthetic sets, the training.
        policy: `base`, or a name in `POLICIES`.
        part: `all`, or the `first` or `second` half of the data.
        order: `in-order`, `shuffled`, or `correlated` with a `strength` of 0..1: see `stream`.
        received: sets in the stream; every: sets between two checkpoints, the last one may come sooner.
        evaluation: dialogues that are answered at each checkpoint, with at most `answer_tokens` tokens.
        bins: of the buffer.
        weight: of EOE in the policy `weighted`.
        entropy: the estimator of EOE.
        synthetic: synthetic sets for each kept one, 0..9; all policies get the same number.
        writer: fingerprint of what wrote them; the model itself where it is empty.
        annotations: most questions that are put to the owner in the whole stream; None for no limit.
        general: hash of the general dialogues that forgetting is measured on; empty for none.
        training, synthesis: of the adapter and of the synthetic sets; their own seeds are not used.
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
    received: int = 4600
    every: int = 800
    evaluation: int = 200
    answer_tokens: int = 128
    bins: int = 128
    weight: float = DEFAULT_WEIGHT
    entropy: str = "spectral"
    synthetic: int = 0
    writer: str = ""
    annotations: int | None = None
    general: str = ""
    training: LoRAConfig = field(default_factory=LoRAConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)

    def __post_init__(self) -> None:
        if self.policy not in (BASE, *POLICIES):
            raise ValueError(f"the policy is {self.policy!r}; it is one of {', '.join((BASE, *POLICIES))}")
        for name in ("received", "every", "evaluation", "answer_tokens", "bins"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight is {self.weight}; it must be 0 or more, and finite")
        if not 0 <= self.synthetic <= 9:
            raise ValueError(f"synthetic is {self.synthetic}; it must lie in 0..9")
        if self.annotations is not None and self.annotations < 1:
            raise ValueError(f"annotations is {self.annotations}; it must be at least 1")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"the seed is {self.seed}; it must lie in 0..2^31, the end left out")
        check_estimator(self.entropy)

    @property
    def checkpoints(self) -> list[int]:
        """Sets received when an adapter is trained: every `every` of them, and at the end (paper 1, 4.1)."""
        return [*range(self.every, self.received, self.every), self.received]

    @property
    def protocol(self) -> int:
        """The version of what this cell computes."""
        return BASE_PROTOCOL if self.policy == BASE else PROTOCOL

    @property
    def key(self) -> str:
        """Hash of all settings that decide the result; what has no effect on it is left out."""
        return digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON has them, those without effect at one value."""
        plain = {"protocol": self.protocol, **dataclasses.asdict(self)}
        plain["training"]["seed"] = plain["synthesis"]["seed"] = 0
        plain["synthesis"]["band"] = list(plain["synthesis"]["band"])
        if self.policy != OWN:
            plain["weight"] = 0.0
        if self.order != "correlated":
            plain["strength"] = 0.0
        if self.synthetic == 0:
            plain["writer"], plain["synthesis"] = "", None
        if self.policy == BASE:
            # It sees no stream and learns nothing.
            for name in ("seed", "bins", "received", "every", "synthetic"):
                plain[name] = 0
            plain.update(order="", strength=0.0, entropy="", annotations=None, writer="", synthesis=None)
            # How much of a row it sees when it is asked how likely the preferred answers are.
            plain["training"] = {"max_tokens": self.training.max_tokens}
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Cell:
        """The cell of what `to_json` gave, settings without effect at their defaults."""
        known = {k: v for k, v in plain.items() if (v is not None or k == "annotations") and k != "protocol"}
        if plain["policy"] == BASE:
            known = {k: v for k, v in known.items() if k not in _OF_A_STREAM}
        if "training" in known:
            known["training"] = LoRAConfig(**known["training"])
        if "synthesis" in known:
            band = tuple(known["synthesis"]["band"])
            known["synthesis"] = SynthesisConfig(**{**known["synthesis"], "band": band})
        return cls(**known)


def digest(value: Any) -> str:
    """A hash of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def synthetic_text(synthetic: int) -> str:
    """Of how many synthetic sets there are for each kept one."""
    if not synthetic:
        return "no synthetic sets"
    return f"{synthetic} synthetic set{'s' if synthetic > 1 else ''} for each kept one"
