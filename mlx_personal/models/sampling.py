"""How the tokens of an answer are chosen, and where it ends. Importable without MLX."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

# Number of tokens before a new one that a repetition penalty looks at, prompt included; mlx-lm's default.
REPETITION_CONTEXT_SIZE: Final = 20
# At a lower temperature logits divided by it may overflow float32; vLLM has the same limit.
_MIN_TEMPERATURE: Final = 1e-5
_PENALTY_RANGE: Final = (0.01, 100.0)


@dataclass(frozen=True)
class SamplingParams:
    """How the tokens of an answer are sampled; the definitions are mlx-lm's.

    `top_p`, `top_k` and `min_p` look at the probabilities before the temperature is applied, and a token has to pass
    all of them. They have no effect at temperature 0.

    Attributes:
        temperature: Softmax temperature; 0, or less than 1e-5, is greedy.
        top_p: The likeliest tokens whose probabilities together reach this value are sampled from [Holtzman20]; 1 for
            all.
        top_k: Number of likeliest tokens that are sampled from; 0 for all.
        min_p: Smallest probability of a token, relative to the likeliest token's [Nguyen24]; 0 for all.
        repetition_penalty: Factor by which the logits of the last 20 tokens are made less likely [Keskar19]; 1 for
            none. It also applies at temperature 0.
        stop: Texts before which the answer ends; they are not part of it.

    Raises:
        ValueError: If a parameter is out of its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Written so that NaN is out of every range.
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; it must be at least 0 and finite")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 0")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}; it must lie in 0..1")
        lowest, highest = _PENALTY_RANGE
        if not lowest <= self.repetition_penalty <= highest:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}; it must lie in {lowest:g}..{highest:g}")
        if isinstance(self.stop, str) or not all(isinstance(text, str) for text in self.stop):
            raise ValueError("stop must be a tuple of texts")
        if not all(self.stop):
            raise ValueError("a text of stop is empty")

    @property
    def is_greedy(self) -> bool:
        """Whether each token is the likeliest one, so that no random numbers are used."""
        return self.temperature < _MIN_TEMPERATURE
