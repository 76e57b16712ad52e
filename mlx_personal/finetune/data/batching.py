"""The order of the samples, the micro-batches of a step, and the arrays of a batch.

The samples of a step are computed in micro-batches of a limited number of tokens whose gradients are accumulated, so
that memory depends on the micro-batch only and the result on the step only. The order is a function of seed and epoch,
so that a resumed training run continues with the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """

    indices: tuple[int, ...]
    inputs: np.ndarray
    segments: tuple[Segment, ...] | None
    target_positions: np.ndarray
    targets: np.ndarray
    target_weights: np.ndarray


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


def micro_batches(
    step: Sequence[int], lengths: Sequence[int], max_tokens: int, batch_format: BatchFormat
) -> Iterator[list[int]]:
    """Yield the samples of a step in micro-batches.

    Args:
        step: Indices of samples.
        lengths: Number of tokens of each sample of the data set.
        max_tokens: Maximum number of tokens of a micro-batch, including padding; a longer sample is a micro-batch of
            its own.
        batch_format: Format of the batches.

    Yields:
        Indices of samples in the order of the step.
    """
    micro_batch: list[int] = []
    for index in step:
        extended = [*micro_batch, index]
        size = sum(lengths[i] for i in extended)
        if batch_format == "padded":
            size = len(extended) * max(lengths[i] for i in extended)
        if micro_batch and size > max_tokens:
            yield micro_batch
            extended = [index]
        micro_batch = extended
    if micro_batch:
        yield micro_batch


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
    )


def _repeat_weights(samples: Sequence[Sample], counts: Sequence[int]) -> np.ndarray:
    """Repeat the weight of each sample for each of its targets."""
    return np.repeat(np.array([sample.weight for sample in samples], np.float32), counts)
