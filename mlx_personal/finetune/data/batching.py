"""The order of the samples, the micro-batches of a step, and the arrays of a batch.

The samples of a step are computed in micro-batches of a limited number of tokens whose gradients are accumulated, so
that memory depends on the micro-batch and the result on the step. The order is a function of seed and epoch alone,
which lets a resumed training continue with the same steps.
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
    """Samples that are computed at once, with N targets in all.

    Attributes:
        indices: Their indices in the data set.
        inputs: int32 [1, T], the samples packed into one sequence, or [B, T], padded on the right.
        segments: Layout of the packed sequence, whose `sample` counts within `indices`; None for a padded batch.
        target_positions: int32 [N], indices into the flattened inputs whose next token is a target.
        targets: int32 [N], the target token of each position.
        weights: float32 [N], the weight of each target in the loss.
    """

    indices: tuple[int, ...]
    inputs: np.ndarray
    segments: tuple[Segment, ...] | None
    target_positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def shuffled_steps(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the samples of each step of an epoch, in random order.

    Args:
        count: Number of samples.
        batch_size: Samples of a step; the last one has what is left.
        seed: Random seed of the training.
        epoch: The epoch, from 0.

    Returns:
        Indices of samples, each once.
    """
    order = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    return [order[at : at + batch_size] for at in range(0, count, batch_size)]


def bucketed_steps(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the samples of each step of an epoch, samples of similar length together and the steps in random order.

    Args:
        lengths: Tokens of each sample.
        batch_size: Samples of a step; one has what is left.
        seed: Random seed of the training.
        epoch: The epoch, from 0.

    Returns:
        Indices of samples, each once.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    # A stable sort of a shuffle: samples of one length meet different ones in every epoch.
    order = order[np.argsort(-np.array(lengths)[order], kind="stable")]
    steps = [order[at : at + batch_size].tolist() for at in range(0, len(order), batch_size)]
    return [steps[i] for i in rng.permutation(len(steps))]


def micro_batches(
    step: Sequence[int], lengths: Sequence[int], max_tokens: int, shape: BatchShape
) -> Iterator[list[int]]:
    """Yield the samples of a step in micro-batches.

    Args:
        step: Indices of samples.
        lengths: Tokens of each sample of the data set.
        max_tokens: Tokens of the largest micro-batch, padding included; a longer sample is a micro-batch by itself.
        shape: How the samples will be laid out.

    Yields:
        Indices of samples, in the order of the step.
    """
    micro_batch: list[int] = []
    for index in step:
        extended = [*micro_batch, index]
        size = sum(lengths[i] for i in extended)
        if shape == "padded":
            size = len(extended) * max(lengths[i] for i in extended)
        if micro_batch and size > max_tokens:
            yield micro_batch
            extended = [index]
        micro_batch = extended
    if micro_batch:
        yield micro_batch


def collate(
    samples: Sequence[Sample], indices: Sequence[int], shape: BatchShape, share_prefixes: bool = False
) -> Batch:
    """Make a batch of samples.

    Args:
        samples: The data set.
        indices: Which of them.
        shape: Pack them into one sequence, or pad them.
        share_prefixes: Whether packed samples compute a common beginning of their prompts once.

    Returns:
        The batch.
    """
    members = [samples[i] for i in indices]
    return _padded(members, indices) if shape == "padded" else _packed(members, indices, share_prefixes)


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
        weights=_repeat_weights(members, list(map(len, targets))),
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
        weights=_repeat_weights([members[segment.sample] for segment in segments], list(map(len, targets))),
    )


def _repeat_weights(samples: Sequence[Sample], counts: Sequence[int]) -> np.ndarray:
    """Repeat each sample's weight as often as it has targets."""
    return np.repeat(np.array([sample.weight for sample in samples], np.float32), counts)
