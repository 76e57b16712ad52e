"""Settings of the synthesis, importable without MLX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

RewriteMode = Literal["question", "both"]
# The names of the prompt styles, which `styles` defines, those that leave most to the model first.
StyleName = Literal["zero-shot", "zero-shot-prefilled", "few-shot-plain", "few-shot", "few-shot-guided", "completion"]
STYLE_NAMES: Final[tuple[StyleName, ...]] = (
    "zero-shot",
    "zero-shot-prefilled",
    "few-shot-plain",
    "few-shot",
    "few-shot-guided",
    "completion",
)
AUTO: Final[Literal["auto"]] = "auto"
# Under this name the prompt style of a base model is stored with it.
CALIBRATION_RECORD: Final = "prompt_style"


# Settings with which rewrites are drawn and filtered as in [Qin24 §3.3]: one prompt, one attempt, ROUGE-1.
PUBLISHED_METHOD: Final[Mapping[str, Any]] = {"style": "zero-shot", "max_attempts": 1, "check_meaning": False}


@dataclass(frozen=True)
class SynthesisConfig:
    """Settings of the rewriting.

    Attributes:
        k: Number of rewrites of each dialogue; there is no gain beyond 6 [Qin24 Fig. 3].
        temperature: Sampling temperature; 0 would give k equal rewrites.
        mode: `question` rewrites the user's turns and keeps the answers; `both` rewrites all turns.
        band: Lowest and highest ROUGE-1, 0..1, of a kept rewrite against its original, both inclusive.
        max_tokens: Maximum number of tokens of a rewrite, which is also limited to about twice the length of its
            original. A longer original is not rewritten, because its rewrite would be cut off.
        max_attempts: Number of attempts for each wanted rewrite: at most `k * max_attempts` are drawn for a dialogue.
        style: Name of the prompt style; `auto` for the one that was found to work with the model.
        check_meaning: Whether rewrites are checked for their meaning, in addition to ROUGE-1.
        min_content_kept: Share of the content words of a sentence that its rewrite has to keep, 0..1.
        max_content_added: Highest share of a rewritten sentence's content words that are new, 0..1.
        questions: Number of questions in the owner's manner that a run proposes, minus those that are still open.
        seed: Random seed of the sampling.

    Raises:
        ValueError: If a setting is out of its range.
    """

    k: int = 6
    temperature: float = 0.5
    mode: RewriteMode = "question"
    # Of 2,000 pairs of paraphrases in the demo's data 92 % reach 0.3, of pairs of unrelated questions 13 %; no other
    # bound separates them better. Above 0.9, at most one word in ten is new.
    band: tuple[float, float] = (0.3, 0.9)
    max_tokens: int = 512
    max_attempts: int = 3
    style: StyleName | Literal["auto"] = AUTO
    check_meaning: bool = True
    # Read by eye, rewrites of a 135M model between 0.6 and 0.7 had often lost a part of the question.
    min_content_kept: float = 0.7
    max_content_added: float = 0.25
    # None unless the owner wants them: each costs the owner's time, and an annotation of the daily limit.
    questions: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, maximum in (("k", 100), ("max_tokens", 100_000), ("max_attempts", 100)):
            if not 1 <= getattr(self, name) <= maximum:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in 1..{maximum:,}")
        if not 0 <= self.questions <= 100:
            raise ValueError(f"questions is {self.questions}; it must lie in 0..100")
        if not 0 <= self.temperature <= 5:
            raise ValueError(f"temperature is {self.temperature}; it must lie in 0..5")
        if self.mode not in ("question", "both"):
            raise ValueError(f"mode is {self.mode!r}; it must be question or both")
        if self.style not in (AUTO, *STYLE_NAMES):
            raise ValueError(f"style is {self.style!r}; it must be {AUTO}, {', '.join(STYLE_NAMES[:-1])} or completion")
        for name in ("min_content_kept", "max_content_added"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in 0..1")
        if not 0 <= self.band[0] < self.band[1] <= 1:
            raise ValueError(f"band is {self.band[0]}..{self.band[1]}; it must be an interval in 0..1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must lie in 0..{2**63 - 1:,}")
