"""The nearest row of a bank by cosine distance, and that distance, without the matrix of all distances.

The distance is what a K-center selection needs of the centers it has; the row is what a refusal of near-duplicates
needs.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from . import cosine, launch


def nearest(queries: mx.array, bank: mx.array) -> tuple[mx.array, mx.array]:
    """The least cosine distance from each query to a row of the bank, float32 [M], 0..2, and that row, int32 [M].

    The lowest row, where several are equally near to the last bit; on a CPU copies of one row may differ in it. Over an
    empty bank the distance is infinite and the row -1. A zero vector has the distance 1 to everything; values below
    1.2e-38 may count as 0.

    Args:
        queries: [M, D], float32, float16 or bfloat16, finite; any norm.
        bank: [R, D] of the queries' dtype; R may be 0.

    ValueError naming the argument whose shape or dtype is another.
    """
    cosine.check(queries, bank)
    if len(queries) == 0 or len(bank) == 0:
        return mx.full(len(queries), mx.inf), mx.full(len(queries), -1, mx.int32)
    return nearest_kernel(queries, bank) if launch.on_gpu() else nearest_cpu(queries, bank)


def nearest_kernel(queries: mx.array, bank: mx.array) -> tuple[mx.array, mx.array]:
    """The same by `nearest.metal`; arguments as above, checked, M and R above 0."""
    kernel = launch.build("nearest", ("queries", "bank"), ("partial_cosine", "partial_index"))
    cosines, index = kernel(inputs=[queries, bank], **cosine.geometry(queries, bank))
    # Groups follow each other over the bank and argmax takes the first of equals: the lowest row.
    group = cosines.argmax(axis=0, keepdims=True)
    cosine_of, row = (mx.take_along_axis(partial, group, axis=0)[0] for partial in (cosines, index))
    return mx.maximum(1 - cosine_of, 0), row


def nearest_ops(queries: mx.array, bank: mx.array) -> tuple[mx.array, mx.array]:
    """The definition in plain ops, with the whole matrix of cosines: what the other forms must equal."""
    cosines = cosine.unit(queries) @ cosine.unit(bank).T
    return mx.maximum(1 - cosines.max(axis=1), 0), cosines.argmax(axis=1).astype(mx.int32)


def nearest_cpu(queries: mx.array, bank: mx.array) -> tuple[mx.array, mx.array]:
    """The same in NumPy, piece by piece of the bank: its norms are several times faster on a CPU than MLX's."""
    count = len(queries)
    unit = np.zeros((cosine.product_rows(count), queries.shape[1]), np.float32)
    unit[:count] = cosine.unit_rows(queries)
    best = np.full(count, -np.inf, np.float32)
    index = np.zeros(count, np.int32)
    every = np.arange(count)
    for start, rows, inverse in cosine.chunks(bank, count):
        cosines = (unit @ rows.T)[:count] * inverse
        here = cosines.argmax(axis=1)
        highest = cosines[every, here]
        better = highest > best
        best = np.where(better, highest, best)
        index = np.where(better, here + start, index)
    return mx.array(np.maximum(1 - best, 0)), mx.array(index.astype(np.int32))
