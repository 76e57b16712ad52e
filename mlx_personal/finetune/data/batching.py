"""The order of the samples, the micro-batches of a step, and the arrays of a batch.

The samples of a step are computed in micro-batches of a limited number of tokens whose gradients are accumulated, so
that memory depends on the micro-batch only and the result on the step only. The order is a function of seed and epoch,
so that a resumed training run continues with the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlx_personal.finetune.data.packing import Segment, pack
from mlx_personal.finetune.data.samples import Sample

BatchFormat = Literal["packed", "padded"]


@dataclass(frozen=True)
class Batch:
    """Samples that are computed at once, with N targets in all.

    Attributes:
        indices: Indices of the samples in the data set.
        inputs: int32 [1, T] with the samples packed into one sequence, or [B, T] padded on the right.
        segments: Layout of the packed sequence, where `Segment.sample` is an index of `indices`; None for a padded
            batch.
        target_positions: int32 [N], indices of the flattened inputs whose next token is a target.
        targets: int32 [N], the target token of each position.
        target_weights: float32 [N], the weight of each target in the loss.
        target_samples: int32 [N], the sample of each target as an index of `indices`.
    """

    indices: tuple[int, ...]
    inputs: np.ndarray
    segments: tuple[Segment, ...] | None
    target_positions: np.ndarray
    targets: np.ndarray
    target_weights: np.ndarray
    target_samples: np.ndarray


def shuffled_steps(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the samples of each step of an epoch, in random order.

    Args:
        count: Number of samples.
        batch_size: Number of samples of a step; the last step has the remaining ones.
        seed: Random seed of the training run.
        epoch: The epoch, from 0.

    Returns:
        Indices of samples, each once.
    """
    order = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    return [order[at : at + batch_size] for at in range(0, count, batch_size)]


def bucketed_steps(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the samples of each step of an epoch, grouped by similar length, with the steps in random order.

    Args:
        lengths: Number of tokens of each sample.
        batch_size: Number of samples of a step; one step has the remaining ones.
        seed: Random seed of the training run.
        epoch: The epoch, from 0.

    Returns:
        Indices of samples, each once.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    # A stable sort after a shuffle, so that samples of the same length are combined differently in each epoch.
    order = order[np.argsort(-np.array(lengths)[order], kind="stable")]
    steps = [order[at : at + batch_size].tolist() for at in range(0, len(order), batch_size)]
    return [steps[i] for i in rng.permutation(len(steps))]


def interleaved_steps(single_count: int, pair_count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the samples of each step of an epoch, in random order, with about the same share of pairs in each step.

    Args:
        single_count: Number of samples that are no part of a pair; they come first.
        pair_count: Number of pairs, of two consecutive samples each.
        batch_size: Number of samples and pairs of a step; the last step has the remaining ones.
        seed: Random seed of the training run.
        epoch: The epoch, from 0.

    Returns:
        Indices of samples, each once; those of a pair are consecutive.
    """
    rng = np.random.default_rng([seed, epoch])
    # Each kind is spread evenly over 0..1.
    placed = []
    for is_pair, count in ((False, single_count), (True, pair_count)):
        for place, index in enumerate(rng.permutation(count).tolist()):
            first = single_count + 2 * index
            placed.append(((place + 0.5) / count, is_pair, [first, first + 1] if is_pair else [index]))
    units = [unit for *_, unit in sorted(placed)]
    starts = range(0, len(units), batch_size)
    return [[index for unit in units[at : at + batch_size] for index in unit] for at in starts]


def units_of(step: Sequence[int], chosen: Set[int]) -> list[list[int]]:
    """Return the samples of a step, with the two samples of a pair together.

    Args:
        step: Indices of samples.
        chosen: Indices of the chosen samples of pairs; each is followed by its rejected one.
    """
    units: list[list[int]] = []
    for index in step:
        if units and len(units[-1]) == 1 and units[-1][0] in chosen:
            units[-1].append(index)
        else:
            units.append([index])
    return units


def micro_batches(
    step: Sequence[int],
    lengths: Sequence[int],
    max_tokens: int,
    batch_format: BatchFormat,
    chosen: Set[int] = frozenset(),
) -> Iterator[list[int]]:
    """Yield the samples of a step in micro-batches.

    Args:
        step: Indices of samples.
        lengths: Number of tokens of each sample of the data set.
        max_tokens: Maximum number of tokens of a micro-batch, including padding; a longer sample or pair is a
            micro-batch of its own.
        batch_format: Format of the batches.
        chosen: Indices of the chosen samples of pairs, whose loss needs both samples in one micro-batch; each is
            followed by its rejected one.

    Yields:
        Indices of samples in the order of the step.
    """
    micro_batch: list[int] = []
    for unit in units_of(step, chosen):
        extended = [*micro_batch, *unit]
        size = sum(lengths[i] for i in extended)
        if batch_format == "padded":
            size = len(extended) * max(lengths[i] for i in extended)
        if micro_batch and size > max_tokens:
            yield micro_batch
            extended = unit
        micro_batch = extended
    if micro_batch:
        yield micro_batch


def formatted_micro_batches(
    step: Sequence[int],
    lengths: Sequence[int],
    max_tokens: int,
    max_packed_tokens: int,
    batch_format: BatchFormat,
    chosen: Set[int] = frozenset(),
) -> Iterator[tuple[list[int], BatchFormat]]:
    """Yield the samples of a step in micro-batches, each with the format in which it is computed.

    Args:
        step: Indices of samples.
        lengths: Number of tokens of each sample of the data set.
        max_tokens: As in `micro_batches`.
        max_packed_tokens: Maximum number of tokens of a packed sequence, see `packing.max_packed_length`.
        batch_format: Format of the batches.
        chosen: As in `micro_batches`.

    Yields:
        Indices of samples in the order of the step, and the format.
    """
    is_packed = batch_format == "packed"
    limit = min(max_tokens, max_packed_tokens) if is_packed else max_tokens
    for micro_batch in micro_batches(step, lengths, limit, batch_format, chosen):
        # A pair may be longer than a packed sequence can be; padded, each of its samples starts at position 0.
        is_long = is_packed and len(micro_batch) > 1 and sum(lengths[i] for i in micro_batch) > max_packed_tokens
        yield micro_batch, "padded" if is_long else batch_format


def collate(
    samples: Sequence[Sample], indices: Sequence[int], batch_format: BatchFormat, share_prefixes: bool = False
) -> Batch:
    """Collate samples into a batch.

    Args:
        samples: The data set.
        indices: Indices of the samples of the batch.
        batch_format: Whether to pack the samples into one sequence or to pad them.
        share_prefixes: Whether packed samples store a common prefix of their prompts once.

    Returns:
        The batch.
    """
    members = [samples[i] for i in indices]
    return _padded(members, indices) if batch_format == "padded" else _packed(members, indices, share_prefixes)


def _padded(members: Sequence[Sample], indices: Sequence[int]) -> Batch:
    width = max(map(len, members))
    inputs = np.zeros((len(members), width), np.int32)
    for i, sample in enumerate(members):
        inputs[i, : len(sample)] = sample.inputs
    positions = [i * width + np.flatnonzero(sample.is_target) for i, sample in enumerate(members)]
    targets = [sample.targets[sample.is_target] for sample in members]
    return Batch(
        indices=tuple(indices),
        inputs=inputs,
        segments=None,
        target_positions=np.concatenate(positions).astype(np.int32),
        targets=np.concatenate(targets),
        target_weights=_repeat_weights(members, list(map(len, targets))),
        target_samples=np.repeat(np.arange(len(members), dtype=np.int32), list(map(len, targets))),
    )


def _packed(members: Sequence[Sample], indices: Sequence[int], share_prefixes: bool) -> Batch:
    shareable = [sample.prompt_length if share_prefixes else 0 for sample in members]
    segments = tuple(pack([sample.inputs for sample in members], shareable))
    offset, positions, targets = 0, [], []
    for segment in segments:
        sample = members[segment.sample]
        in_segment = np.flatnonzero(sample.is_target[segment.start : segment.stop])
        positions.append(offset + in_segment)
        targets.append(sample.targets[segment.start + in_segment])
        offset += len(segment)
    packed = np.concatenate([members[s.sample].inputs[s.start : s.stop] for s in segments])
    return Batch(
        indices=tuple(indices),
        inputs=packed[None],
        segments=segments,
        target_positions=np.concatenate(positions).astype(np.int32),
        targets=np.concatenate(targets),
        target_weights=_repeat_weights([members[segment.sample] for segment in segments], list(map(len, targets))),
        target_samples=np.repeat(np.array([segment.sample for segment in segments], np.int32), list(map(len, targets))),
    )


def _repeat_weights(samples: Sequence[Sample], counts: Sequence[int]) -> np.ndarray:
    """Repeat the weight of each sample for each of its targets."""
    return np.repeat(np.array([sample.weight for sample in samples], np.float32), counts)
