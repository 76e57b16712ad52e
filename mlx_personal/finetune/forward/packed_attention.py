"""Attention over a packed sequence: a few large calls for buckets of sequences of similar length.

The sequences of a batch are short and differ in length. One call per sequence would be dozens of tiny operations in
every layer; with all sequences padded to the longest, most of the attention would be to padding. So sequences of
similar length are computed together, padded on the right, to which causal attention does not attend.

References:
    [Krell21]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from mlx_personal.finetune.forward.permutation import Permutation


class PackedAttention:
    """Causal attention of each sequence of a packed batch to itself.

    Args:
        lengths: Lengths of the sequences in the order of packing; T is their sum.
    """

    def __init__(self, lengths: Sequence[int]):
        self._tokens = sum(lengths)
        self._permutations_by_heads: dict[int, tuple[Permutation, Permutation]] = {}
        starts = np.cumsum([0, *lengths])
        self._buckets: list[np.ndarray] = []
        for sequences in length_buckets(lengths):
            within = np.arange(lengths[sequences[0]])
            bucket_lengths = np.array([lengths[i] for i in sequences])[:, None]
            # Position of each token of each sequence in the packed sequence; -1 for padding.
            self._buckets.append(np.where(within < bucket_lengths, starts[sequences][:, None] + within, -1))

    def attend(self, attention: Callable[..., mx.array], q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Compute attention.

        Args:
            attention: A causal attention, called with q [R, H, n, d], k and v [R, K, n, d] of each bucket.
            q: Queries [1, H, T, d].
            k: Keys [1, K, T, d].
            v: Values [1, K, T, d].

        Returns:
            [1, H, T, d].
        """
        outputs = [attention(*arrays) for arrays in zip(*map(self._to_buckets, (q, k, v)), strict=True)]
        width = outputs[0].shape[-1]
        _, to_packed = self._permutations(q.shape[1])
        packed = to_packed(mx.concatenate([output.reshape(-1, width) for output in outputs]))
        return packed.reshape(1, -1, self._tokens, width)

    def _to_buckets(self, x: mx.array) -> list[mx.array]:
        """Return [1, H, T, d] as an array [R, H, n, d] for each bucket of R sequences, padded to n."""
        _, heads, _, width = x.shape
        to_buckets, _ = self._permutations(heads)
        sizes = [bucket.size * heads for bucket in self._buckets]
        arrays = mx.split(to_buckets(x.reshape(-1, width)), np.cumsum(sizes)[:-1].tolist())
        return [
            array.reshape(bucket.shape[0], heads, bucket.shape[1], width)
            for array, bucket in zip(arrays, self._buckets, strict=True)
        ]

    def _permutations(self, heads: int) -> tuple[Permutation, Permutation]:
        """Return the permutations of `heads` times T rows to the buckets and back, which all layers share."""
        if heads not in self._permutations_by_heads:
            self._permutations_by_heads[heads] = self._new_permutations(heads)
        return self._permutations_by_heads[heads]

    def _new_permutations(self, heads: int) -> tuple[Permutation, Permutation]:
        count = heads * self._tokens
        origins = []
        for bucket in self._buckets:
            by_head = np.arange(heads)[None, :, None] * self._tokens + bucket[:, None]
            origins.append(np.where(bucket[:, None] < 0, -1, by_head).reshape(-1))
        to_buckets = np.concatenate(origins)
        to_packed = np.empty(count, np.int64)
        to_packed[to_buckets[to_buckets >= 0]] = np.flatnonzero(to_buckets >= 0)
        return Permutation(to_buckets, count), Permutation(to_packed, len(to_buckets))


def length_buckets(lengths: Sequence[int]) -> list[list[int]]:
    """Group sequences of similar length.

    Args:
        lengths: Lengths of the sequences.

    Returns:
        Buckets of indices, the longest sequences first. All sequences of a bucket have at least two thirds of the
        length of its first one.
    """
    buckets: list[list[int]] = []
    for sequence in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if buckets and 3 * lengths[sequence] >= 2 * lengths[buckets[-1][0]]:
            buckets[-1].append(sequence)
        else:
            buckets.append([sequence])
    return buckets
