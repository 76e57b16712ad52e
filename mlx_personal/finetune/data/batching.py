"""Which rows make a step, in what order, and the arrays that are computed from them.

A step's rows are computed in parts of a limited number of tokens, whose gradients add up: memory follows the parts,
what is learnt follows the step. Orders are functions of seed and epoch alone, so that a resumed training finds its
place again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlx_personal.finetune.data.packing import Segment, pack
from mlx_personal.finetune.data.samples import Sample

BatchShape = Literal["packed", "padded"]


@dataclass(frozen=True)
class Batch:
    """Rows that are computed at once, and the N positions in them whose next token is learnt.

    Args:
        rows: their indices in the training set.
        inputs: int32 [1, T], the rows one behind the other, or [B, T], one beside the other and padded on the right.
        pieces: in the packed case what stands where; their `row` counts within `rows`.
        target_positions: int32 [N], indices into the flattened inputs.
        targets: int32 [N], the token that follows each.
        weights: float32 [N], how much each counts.
    """

    rows: tuple[int, ...]
    inputs: np.ndarray
    segments: tuple[Segment, ...] | None
    target_positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def shuffled_steps(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The steps of an epoch: every row once, in random order, the last step with what is left."""
    order = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    return [order[at : at + batch_size] for at in range(0, count, batch_size)]


def bucketed_steps(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The steps of an epoch: every row once, beside rows of like length, the steps in random order."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    # A stable sort of a shuffle: rows of one length meet other rows in every epoch.
    order = order[np.argsort(-np.array(lengths)[order], kind="stable")]
    steps = [order[at : at + batch_size].tolist() for at in range(0, len(order), batch_size)]
    return [steps[i] for i in rng.permutation(len(steps))]


def micro_batches(step: Sequence[int], lengths: Sequence[int], tokens: int, shape: BatchShape) -> Iterator[list[int]]:
    """The step's rows in groups of at most `tokens` tokens, padding included; a longer row is a group of its own."""
    part: list[int] = []
    for row in step:
        longer = [*part, row]
        size = sum(lengths[i] for i in longer)
        if shape == "padded":
            size = len(longer) * max(lengths[i] for i in longer)
        if part and size > tokens:
            yield part
            longer = [row]
        part = longer
    if part:
        yield part


def collate(rows: Sequence[Sample], chosen: Sequence[int], shape: BatchShape, share: bool = False) -> Batch:
    """These rows of the training set as a batch; with `share`, packed rows pay for a common prompt once."""
    members = [rows[i] for i in chosen]
    if shape == "padded":
        width = max(map(len, members))
        inputs = np.zeros((len(members), width), np.int32)
        for i, row in enumerate(members):
            inputs[i, : len(row)] = row.inputs
        positions = np.concatenate([i * width + np.flatnonzero(row.is_target) for i, row in enumerate(members)])
        targets = np.concatenate([row.targets[row.is_target] for row in members])
        weights = _repeated(members, [int(row.is_target.sum()) for row in members])
        return Batch(tuple(chosen), inputs, None, positions.astype(np.int32), targets, weights)
    segments = tuple(pack([row.inputs for row in members], [row.prompt if share else 0 for row in members]))
    at, found_places, found_targets = 0, [], []
    for segment in segments:
        row = members[segment.row]
        learnt = np.flatnonzero(row.is_target[segment.start : segment.stop])
        found_places.append(at + learnt)
        found_targets.append(row.targets[segment.start + learnt])
        at += len(segment)
    flat = np.concatenate([members[p.row].inputs[p.start : p.stop] for p in segments])
    return Batch(
        tuple(chosen),
        flat[None],
        segments,
        np.concatenate(found_places).astype(np.int32),
        np.concatenate(found_targets),
        _repeated([members[segment.row] for segment in segments], [len(found) for found in found_targets]),
    )


def _repeated(rows: Sequence[Sample], counts: Sequence[int]) -> np.ndarray:
    """Each row's weight, for so many of its targets."""
    return np.repeat(np.array([row.weight for row in rows], np.float32), counts)
