"""Attention over packed rows: rows of like length side by side, a few large calls instead of one for each row.

A batch's rows are short and of many lengths. One by one, each of them costs a model's every block some dozens of tiny
operations; padded to the longest of all, most of the attention would be to padding. So rows of like length are
attended to together. They are padded on the right, where causal attention does not look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from mlx_personal.finetune.forward.permutation import Permutation


class PackedAttention:
    """Rows of these lengths, one behind the other, in groups."""

    def __init__(self, lengths: Sequence[int]):
        self._tokens = sum(lengths)
        self._orders_of: dict[int, tuple[Permutation, Permutation]] = {}
        starts = np.cumsum([0, *lengths])
        self._groups: list[np.ndarray] = []
        for rows in length_buckets(lengths):
            within = np.arange(lengths[rows[0]])
            own = np.array([lengths[row] for row in rows])[:, None]
            # Where each token of each row stands in the sequence; -1 for padding.
            self._groups.append(np.where(within < own, starts[rows][:, None] + within, -1))

    def attend(self, attention: Callable[..., mx.array], q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Causal `attention` of q [1, H, T, d] to k and v [1, K, T, d], each row to itself alone: [1, H, T, d]."""
        parts = [attention(*rows) for rows in zip(*map(self._spread, (q, k, v)), strict=True)]
        width = parts[0].shape[-1]
        _, back = self._orders(q.shape[1])
        return back(mx.concatenate([part.reshape(-1, width) for part in parts])).reshape(1, -1, self._tokens, width)

    def _spread(self, x: mx.array) -> list[mx.array]:
        """[1, H, T, d] as [R, H, n, d] for each group of R rows, padded to n."""
        _, heads, _, width = x.shape
        spread, _ = self._orders(heads)
        sizes = [group.size * heads for group in self._groups]
        parts = mx.split(spread(x.reshape(-1, width)), np.cumsum(sizes)[:-1].tolist())
        return [
            part.reshape(group.shape[0], heads, group.shape[1], width)
            for part, group in zip(parts, self._groups, strict=True)
        ]

    def _orders(self, heads: int) -> tuple[Permutation, Permutation]:
        """From the sequence of `heads` times T to the groups, and back; every block asks for the same."""
        if heads not in self._orders_of:
            self._orders_of[heads] = self._new_orders(heads)
        return self._orders_of[heads]

    def _new_orders(self, heads: int) -> tuple[Permutation, Permutation]:
        count = heads * self._tokens
        found = []
        for group in self._groups:
            of_heads = np.arange(heads)[None, :, None] * self._tokens + group[:, None]
            found.append(np.where(group[:, None] < 0, -1, of_heads).reshape(-1))
        in_groups = np.concatenate(found)
        in_sequence = np.empty(count, np.int64)
        in_sequence[in_groups[in_groups >= 0]] = np.flatnonzero(in_groups >= 0)
        return Permutation(in_groups, count), Permutation(in_sequence, len(in_groups))


def length_buckets(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in groups, the longest first, in which none is shorter than two thirds of the first."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if groups and 3 * lengths[row] >= 2 * lengths[groups[-1][0]]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
