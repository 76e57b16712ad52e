"""Training rows: a dialogue's tokens, which of them are to be learnt, and how much each counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_personal.dialogue import Dialogue
from mlx_personal.models import LanguageModel


@dataclass(frozen=True)
class Sample:
    """One training sequence of T tokens: the T - 1 inputs, what follows each, and whether that is to be learnt.

    `weight` is how much each of its targets counts in a step's mean loss, beside those of other rows. ValueError where
    it is not above 0 and finite.
    """

    inputs: np.ndarray
    targets: np.ndarray
    is_target: np.ndarray
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"a row's weight is {self.weight}; it must be above 0 and finite")

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def prompt(self) -> int:
        """How many inputs come before the first one whose next token is learnt."""
        return int(self.is_target.argmax())


@dataclass(frozen=True)
class SampleSet:
    """The rows that have something to learn, and how many were dropped or cut to get them."""

    rows: list[Sample]
    dropped: int
    truncated: int


@dataclass(frozen=True)
class TrainingData:
    """What a training sees.

    Args:
        rows: to learn.
        replay: general rows, learnt beside them so that the model keeps what it knew.
        validation: the owner's rows that are not learnt: the adapter of the epoch that is best on them is taken.
        general: general rows that are not learnt, to tell how much is forgotten.
    """

    rows: Sequence[Sample]
    replay: Sequence[Sample] = ()
    validation: Sequence[Sample] = ()
    general: Sequence[Sample] = ()


def make_samples(
    lm: LanguageModel, dialogues: Iterable[Dialogue], max_tokens: int, weights: Iterable[float] | None = None
) -> SampleSet:
    """Rows in which every assistant turn is a target; thoughts are taken out first.

    Each dialogue's rows have its weight, by default 1. A row of over `max_tokens` tokens keeps its last ones. Rows
    without a target are dropped: their mean loss is 0 / 0. ValueError where there is not one weight for each dialogue.
    """
    rows, dropped, truncated = [], 0, 0
    given = list(dialogues)
    for dialogue, weight in zip(given, [1.0] * len(given) if weights is None else weights, strict=True):
        try:
            spoken = dialogue.without_thoughts()
        except ValueError:  # nothing but thoughts in a turn
            dropped += 1
            continue
        for tokens, is_target in lm.training_tokens(spoken):
            truncated += len(tokens) > max_tokens
            kept = np.array(tokens[-max_tokens:], np.int32)
            row = Sample(kept[:-1], kept[1:], np.array(is_target[-max_tokens:], bool)[1:], weight)
            if row.is_target.any():
                rows.append(row)
            else:
                dropped += 1
    return SampleSet(rows, dropped, truncated)


def target_tokens(rows: Iterable[Sample]) -> int:
    """Tokens that are learnt when each of these rows is seen once."""
    return int(sum(row.is_target.sum() for row in rows))


def target_weight(rows: Iterable[Sample]) -> float:
    """What a sum over all targets of these rows is divided by for their weighted mean: the sum of their weights."""
    return float(sum(row.weight * int(row.is_target.sum()) for row in rows))
