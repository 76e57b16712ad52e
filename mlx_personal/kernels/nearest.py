"""The nearest row of a bank by cosine distance, and that distance, without the matrix of all distances.

K-center selection uses the distance to its centers, and the removal of near-duplicates uses the row.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from . import build, cosine
from .checks import check_queries


def nearest(queries: mx.array, bank: mx.array) -> tuple[mx.array, mx.array]:
    """Find the nearest row of the bank for each query.

    A zero vector has the distance 1 to everything; values below 1.2e-38 may count as 0. Of several rows that are
    equally near to the last bit, the first is returned; on a CPU copies of one row may differ in that bit.

    Args:
        queries: [B, D], float32, float16 or bfloat16, finite, with any norm.
        bank: [R, D], of the queries' dtype; R may be 0.

    Returns:
        The cosine distance, float32 [B] in 0..2, and the index of the row, int32 [B]. For an empty bank the distance is
        infinite and the index -1.

    Raises:
        ValueError: If a shape or dtype is wrong; names the argument.
    """
    check_queries(queries, bank)
    if len(queries) == 0 or len(bank) == 0:
        return mx.full(len(queries), mx.inf), mx.full(len(queries), -1, mx.int32)
    return nearest_kernel(queries, bank) if build.on_gpu() else nearest_cpu(queries, bank)


def nearest_kernel(queries: mx.array, bank: mx.array) -> tuple[mx.array, mx.array]:
    """Compute `nearest` with its kernel; the arguments are already checked, and B and R are above 0."""
    kernel = build.build_kernel("nearest", ("queries", "bank"), ("partial_cosine", "partial_index"))
    cosines, index = kernel(inputs=[queries, bank], **cosine.launch_geometry(queries, bank))
    # Groups are in the order of the bank and argmax takes the first of equal values: the first row.
    group = cosines.argmax(axis=0, keepdims=True)
    highest, row = (mx.take_along_axis(partial, group, axis=0)[0] for partial in (cosines, index))
    return mx.maximum(1 - highest, 0), row


def nearest_ops(queries: mx.array, bank: mx.array) -> tuple[mx.array, mx.array]:
    """Compute `nearest` from the whole matrix of cosines: the reference."""
    cosines = cosine.normalize(queries) @ cosine.normalize(bank).T
    return mx.maximum(1 - cosines.max(axis=1), 0), cosines.argmax(axis=1).astype(mx.int32)


def nearest_cpu(queries: mx.array, bank: mx.array) -> tuple[mx.array, mx.array]:
    """Compute `nearest` in NumPy, one chunk of the bank at a time; its norms are several times faster than MLX's."""
    count = len(queries)
    normalized = np.zeros((cosine.padded_row_count(count), queries.shape[1]), np.float32)
    normalized[:count] = cosine.normalize_on_cpu(queries)
    highest = np.full(count, -np.inf, np.float32)
    index = np.zeros(count, np.int32)
    all_queries = np.arange(count)
    for start, rows, inverse_norms in cosine.bank_chunks(bank, count):
        cosines = (normalized @ rows.T)[:count] * inverse_norms
        chunk_index = cosines.argmax(axis=1)
        chunk_highest = cosines[all_queries, chunk_index]
        better = chunk_highest > highest
        highest = np.where(better, chunk_highest, highest)
        index = np.where(better, chunk_index + start, index)
    return mx.array(np.maximum(1 - highest, 0)), mx.array(index.astype(np.int32))
