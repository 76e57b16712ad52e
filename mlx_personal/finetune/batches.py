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
    """B rows padded to T, and the N places in them whose next token is learnt.

    Args:
        inputs: int32 [B, T].
        places: int32 [N], indices into the B * T flattened inputs.
        targets: int32 [N], the token that follows each.
        weights: float32 [N], 1; 0 where a place is padding.
    """

    inputs: np.ndarray
    places: np.ndarray
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


def batch_sizes(rows: Sequence[Row], batch_size: int, batch_tokens: int, length_step: int) -> list[int]:
    """How many rows each batch takes, the longest rows first.

    None has over `batch_size` rows, nor over `batch_tokens` tokens, padding included, unless it is a single row.
    """
    lengths = sorted((_padded(row, length_step) for row in rows), reverse=True)
    sizes: list[int] = []
    while left := lengths[sum(sizes) :]:
        sizes.append(max(1, min(batch_size, batch_tokens // left[0], len(left))))
    return sizes


def epoch(rows: Sequence[Row], sizes: Sequence[int], length_step: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Every row once, in batches of like length and random order, of as many rows as `batch_sizes` says.

    Lengths are padded to multiples of `length_step`, which is one of 8.
    """
    lengths = np.array([_padded(row, length_step) for row in rows])
    shuffled = rng.permutation(len(rows))
    # A stable sort of a shuffle: rows of one padded length meet other batch mates in every epoch.
    order = shuffled[np.argsort(-lengths[shuffled], kind="stable")]
    batches = np.split(order, np.cumsum(sizes)[:-1])
    for i in rng.permutation(len(batches)):
        yield collate([rows[row] for row in batches[i]], length_step)


def collate(rows: Sequence[Row], length_step: int) -> Batch:
    """Rows side by side, padded on the right: a causal model's real tokens never see the padding.

    The places are padded too, to eighths of B * T: a compiled step is compiled anew for every shape.
    """
    length = max(_padded(row, length_step) for row in rows)
    inputs = np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
        inputs[i, : len(row.inputs)] = row.inputs
    places = np.concatenate([i * length + np.flatnonzero(row.is_target) for i, row in enumerate(rows)])
    targets = np.concatenate([row.targets[row.is_target] for row in rows])
    eighth = inputs.size // 8
    padding = (0, -len(places) % eighth)
    return Batch(
        inputs,
        np.pad(places.astype(np.int32), padding),
        np.pad(targets.astype(np.int32), padding),
        np.pad(np.ones(len(places), np.float32), padding),
    )


def _padded(row: Row, length_step: int) -> int:
    return -(-len(row.inputs) // length_step) * length_step
