"""Training rows and batches: exact targets, rows of like length together, few different shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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


@dataclass(frozen=True)
class Rows:
    """The rows that have something to learn, and how many were dropped or cut to get them."""

    rows: list[Row]
    dropped: int
    truncated: int

    @property
    def target_tokens(self) -> int:
        """Tokens learnt in one epoch."""
        return int(sum(row.is_target.sum() for row in self.rows))


@dataclass(frozen=True)
class Batch:
    """B rows padded to T: int32 `inputs` and `targets`, float32 `weights` (1 at targets, 0 elsewhere), all [B, T]."""

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


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


def epoch(rows: Sequence[Row], batch_size: int, length_step: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Every row once, in batches of like length and random order; the last and smaller batch is kept.

    Lengths are padded to multiples of `length_step`.
    """
    padded = np.array([-len(row.inputs) // length_step for row in rows])  # minus the padded length, in steps
    shuffled = rng.permutation(len(rows))
    # A stable sort of a shuffle: rows of one padded length meet other batch mates in every epoch.
    order = shuffled[np.argsort(padded[shuffled], kind="stable")]
    starts = np.arange(0, len(order), batch_size)
    for start in rng.permutation(starts):
        yield collate([rows[i] for i in order[start : start + batch_size]], length_step)


def collate(rows: Sequence[Row], length_step: int) -> Batch:
    """Rows side by side, padded on the right with weights of 0: a causal model's real tokens never see the padding."""
    length = max(len(row.inputs) for row in rows)
    shape = (len(rows), -(-length // length_step) * length_step)
    batch = Batch(np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32))
    for i, row in enumerate(rows):
        batch.inputs[i, : len(row.inputs)] = row.inputs
        batch.targets[i, : len(row.targets)] = row.targets
        batch.weights[i, : len(row.is_target)] = row.is_target
    return batch
