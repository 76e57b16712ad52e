"""A cell: one run of a study, identified by the settings that determine its result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mlx_personal.finetune import LoRAConfig
from mlx_personal.research.hashing import digest
from mlx_personal.scoring.config import check_estimator
from mlx_personal.selection.weighted import DEFAULT_WEIGHT
from mlx_personal.synthesis import SynthesisConfig

# Increase it whenever the same settings lead to another result, for example by other scores, prompts or topics.
PROTOCOL: Final = 1
# Version of the base model's cells, which also score a constant answer.
BASE_PROTOCOL: Final = 2

# The base model without selection and training.
BASE: Final = "base"
# The policy and the baselines of [Qin24 §3.2, §4.1], and the ablation of its Table 4.
PAPER_POLICIES: Final = ("quality", "random", "fifo", "k-center")
SINGLE_SCORES: Final = ("eoe", "dss", "idd")
# The ablation as the authors' released scripts behave: they keep LOWER scores, see `authors_script`.
AUTHORS_SCRIPTS: Final = ("eoe-script", "dss-script", "idd-script")
# This project's policy.
WEIGHTED: Final = "weighted"
POLICIES: Final = (*PAPER_POLICIES, *SINGLE_SCORES, WEIGHTED, *AUTHORS_SCRIPTS)

# Settings that do not affect a cell of the base model, which sees no stream.
_STREAM_SETTINGS: Final = ("bins", "received", "every", "order", "strength", "entropy")

# Size of a bin, inferred from [Qin24 Table 4]: its buffer of 2816 KB has 128 bins.
KB_PER_BIN: Final = 22
# The others do not apply to the published method, with which cells are computed.
_SYNTHESIS_SETTINGS: Final = ("k", "temperature", "mode", "band", "max_tokens", "seed")


@dataclass(frozen=True)
class Cell:
    """The settings of one run.

    A run sends a stream of dialogues through a selection policy. At each checkpoint an adapter is trained from the base
    model on the selected dialogues and evaluated.

    Field names are stored in study databases and are part of `key`.

    Attributes:
        data: Name of the data set, a key of `datasets.DATASETS`.
        source: Revision of the data set, or the hash of the file it was read from.
        model_name: Name of the base model.
        model: Fingerprint of the base model.
        seed: Random seed of the stream's order, the policy, the synthetic dialogues and the training.
        policy: `base`, or a name in `POLICIES`.
        part: Part of the data: `all`, or its `first` or `second` half.
        order: Order of the stream: `in-order`, `shuffled` or `correlated`, see `stream`.
        strength: Strength of the correlation, 0 to 1; only for `correlated`.
        received: Dialogues in the stream.
        every: Dialogues between two checkpoints; the last interval may be shorter.
        evaluation: Dialogues that are answered at each checkpoint.
        answer_tokens: Maximum tokens of a generated answer.
        bins: Bins of the buffer.
        weight: Weight of EOE in the policy `weighted`.
        entropy: Estimator of EOE, a name in `scoring.ESTIMATORS`.
        synthetic: Synthetic dialogues per selected one, 0 to 9; the same number for every policy.
        writer: Fingerprint of the adapter that generates synthetic dialogues; empty for the base model.
        annotations: Maximum number of dialogues that the user annotates in the whole stream; None for no limit.
        general: Hash of the general dialogues on which forgetting is measured; empty for none.
        training: Settings of the adapter; its seed is not used.
        synthesis: Settings of the synthetic dialogues; its seed is not used.

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
            raise ValueError(f"the policy is {self.policy!r}; it must be one of {', '.join((BASE, *POLICIES))}")
        for name in ("received", "every", "evaluation", "answer_tokens", "bins"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight is {self.weight}; it must be finite and at least 0")
        if not 0 <= self.synthetic <= 9:
            raise ValueError(f"synthetic is {self.synthetic}; it must lie in 0..9")
        if self.annotations is not None and self.annotations < 1:
            raise ValueError(f"annotations is {self.annotations}; it must be at least 1")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"the seed is {self.seed}; it must be at least 0 and below 2^31")
        check_estimator(self.entropy)

    @property
    def checkpoints(self) -> list[int]:
        """Numbers of received dialogues at which an adapter is trained [Qin24 §4.1]."""
        return [*range(self.every, self.received, self.every), self.received]

    @property
    def protocol(self) -> int:
        """Version of this cell's computation."""
        return BASE_PROTOCOL if self.policy == BASE else PROTOCOL

    @property
    def key(self) -> str:
        """Hash of all settings that affect the result."""
        return digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the settings as stored; settings without effect have one fixed value."""
        stored = {"protocol": self.protocol, **dataclasses.asdict(self), "training": self.training.to_json()}
        stored["training"]["seed"] = stored["synthesis"]["seed"] = 0
        stored["synthesis"] = {name: stored["synthesis"][name] for name in _SYNTHESIS_SETTINGS}
        stored["synthesis"]["band"] = list(stored["synthesis"]["band"])
        if self.policy != WEIGHTED:
            stored["weight"] = 0.0
        if self.order != "correlated":
            stored["strength"] = 0.0
        if self.synthetic == 0:
            stored["writer"], stored["synthesis"] = "", None
        if self.policy == BASE:
            for name in ("seed", "bins", "received", "every", "synthetic"):
                stored[name] = 0
            stored.update(order="", strength=0.0, entropy="", annotations=None, writer="", synthesis=None)
            # The likelihood of the preferred answers depends on where samples are truncated.
            stored["training"] = {"max_tokens": self.training.max_seq_length}
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Cell:
        """Return the cell that `to_json` stored; settings without effect have their defaults."""
        settings = {k: v for k, v in stored.items() if (v is not None or k == "annotations") and k != "protocol"}
        if stored["policy"] == BASE:
            settings = {k: v for k, v in settings.items() if k not in _STREAM_SETTINGS}
        if "training" in settings:
            settings["training"] = LoRAConfig.from_json(settings["training"])
        if "synthesis" in settings:
            band = tuple(settings["synthesis"]["band"])
            settings["synthesis"] = SynthesisConfig(**{**settings["synthesis"], "band": band})
        return cls(**settings)


def describe_synthetic(synthetic: int) -> str:
    """Return a phrase for a number of synthetic dialogues per selected one."""
    if not synthetic:
        return "no synthetic dialogues"
    return f"{synthetic} synthetic dialogue{'s' if synthetic > 1 else ''} per selected one"
