"""Training rows: a dialogue's tokens, and which of them are to be learnt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_personal.backend import LanguageModel
from mlx_personal.dialogue import Dialogue


@dataclass(frozen=True)
class Row:
    """One training sequence of T tokens: the T - 1 inputs, what follows each, and whether that is to be learnt."""

    inputs: np.ndarray
    targets: np.ndarray
    is_target: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def prompt(self) -> int:
        """How many inputs come before the first one whose next token is learnt."""
        return int(self.is_target.argmax())


@dataclass(frozen=True)
class Rows:
    """The rows that have something to learn, and how many were dropped or cut to get them."""

    rows: list[Row]
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

    rows: Sequence[Row]
    replay: Sequence[Row] = ()
    validation: Sequence[Row] = ()
    general: Sequence[Row] = ()


def make_rows(lm: LanguageModel, dialogues: Iterable[Dialogue], max_tokens: int) -> Rows:
    """Rows in which every assistant turn is a target; thoughts are taken out first.

    A row of over `max_tokens` tokens keeps its last ones. Rows without a target are dropped: their mean loss is 0 / 0.
    """
    rows, dropped, truncated = [], 0, 0
    for dialogue in dialogues:
        try:
            spoken = dialogue.without_thoughts()
        except ValueError:  # nothing but thoughts in a turn
            dropped += 1
            continue
        for tokens, is_target in lm.training_tokens(spoken):
            truncated += len(tokens) > max_tokens
            kept = np.array(tokens[-max_tokens:], np.int32)
            row = Row(kept[:-1], kept[1:], np.array(is_target[-max_tokens:], bool)[1:])
            if row.is_target.any():
                rows.append(row)
            else:
                dropped += 1
    return Rows(rows, dropped, truncated)


def target_tokens(rows: Iterable[Row]) -> int:
    """Tokens that are learnt when each of these rows is seen once."""
    return int(sum(row.is_target.sum() for row in rows))
