"""Answer modes: the base model or an adapter, with or without memory.

Several modes are compared with the one in use by the rule `evaluation.promotion`. One of those that are better by it is
used; without a better one the mode in use stays. The fields of these dataclasses are the keys under which profiles
store them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from mlx_personal.evaluation.intervals import MetricChange


@dataclass(frozen=True)
class AnswerMode:
    """What answers.

    Attributes:
        adapter: Id of an adapter of the profile, or the folder of another one; None for the base model.
        uses_memory: Whether the nearest kept dialogues stand before a question.
    """

    adapter: int | str | None
    uses_memory: bool

    def text(self) -> str:
        """Return the mode in words, such as `adapter 3 with memory`."""
        name = "the base model" if self.adapter is None else f"adapter {self.adapter}"
        if isinstance(self.adapter, str):
            name = "this adapter"
        return f"{name} with memory" if self.uses_memory else name

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the mode of a stored object."""
        return cls(values["adapter"], values["uses_memory"])


@dataclass(frozen=True)
class ModeResult:
    """What an answer mode reaches on the held-out dialogues.

    Attributes:
        mode: The mode.
        log_likelihood: Mean log-likelihood of the preferred answers, in nats a token; None if it is not finite.
        mrr: Mean reciprocal rank of the preferred answer among others; None if the rule does not need it.
        rouge1: Mean ROUGE-1.
        gain: Change in the metric of the rule from the mode in use; None for that mode itself, for one that is only
            shown, and if it could not be compared.
        is_better: Whether it is better than the mode in use.
        reason: Why it is, or why not; empty for the mode in use and for one that is only shown.
    """

    mode: AnswerMode
    log_likelihood: float | None
    mrr: float | None
    rouge1: float
    gain: MetricChange | None = None
    is_better: bool = False
    reason: str = ""


@dataclass(frozen=True)
class ModeComparison:
    """The comparison of answer modes with the one in use.

    Attributes:
        rule: The rule, one of `config.PROMOTION_RULES`.
        n: Number of dialogues.
        can_decide: Whether there are enough of them, see `config.MIN_HELD_OUT`.
        in_use: The mode in use when it was compared; the base model if its adapter is damaged.
        evaluated: The mode of the evaluated adapter: the better one of those with and without memory.
        best: The mode to use from then on, which may be the one in use.
        results: The result of each mode.
        memory: The settings of the memory that was compared.
        memory_note: Why memory was not compared although `memory.use` is `auto`; empty if it was.
        earlier_choices: The smallest and the largest number of earlier choices that a dialogue decided.
        compared_at: When it was compared, UTC.
    """

    rule: str
    n: int
    can_decide: bool
    in_use: AnswerMode
    evaluated: AnswerMode
    best: AnswerMode
    results: tuple[ModeResult, ...]
    memory: Mapping[str, Any]
    memory_note: str
    earlier_choices: tuple[int, int]
    compared_at: str


def best_result(results: Sequence[ModeResult]) -> ModeResult | None:
    """Return the result of the largest gain among those that are better; of equal ones the first; None without any.

    Args:
        results: The results.
    """
    better = [result for result in results if result.is_better and result.gain is not None]
    return max(better, key=_gain, default=None)


def most_promising(results: Sequence[ModeResult]) -> ModeResult:
    """Return the result of the largest gain, whether or not it is better; of equal ones the first.

    Args:
        results: The results, at least one; the mode in use among them has a gain of 0.
    """
    return max(results, key=_gain)


def _gain(result: ModeResult) -> float:
    if result.gain is None:  # the mode in use, or one that could not be compared
        return 0.0 if not result.reason else -math.inf
    return result.gain.gain if math.isfinite(result.gain.gain) else -math.inf
