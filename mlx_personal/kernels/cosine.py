"""What the two kernels of cosine distances share: checks, launch geometry, and the cosines on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from . import launch
from .rescue import LARGEST_SQUARES, SMALLEST_SQUARES, rescue

_SIMDGROUPS = 8
# Queries that share one reading of the bank; rows that share one reading of those queries.
_QUERIES = 8
_ROWS = 4
# Below so many rows there is too little work to give each simdgroup four rows at a time.
_MANY_ROWS = 4096
# What the partial results of all threadgroups, 8 bytes a query and group, may take; and groups enough for any GPU, yet
# few enough that each works on many rows for the one time it reads its queries' norms.
_PARTIAL_BYTES = 1 << 20
_MOST_GROUPS = 512
# Of a bank on a CPU, what is worked on at once: less costs more calls, more does not stay in the cache between the
# norms and the products.
_CHUNK_BYTES = 1 << 23


def check(queries: mx.array, bank: mx.array) -> None:
    """ValueError naming the argument unless queries are [B, D] and the bank is [R, D] of the same dtype."""
    launch.check_matrix("queries", queries)
    launch.check_matrix("bank", bank)
    if bank.shape[1] != queries.shape[1]:
        raise ValueError(f"bank has {bank.shape[1]} dimensions, queries have {queries.shape[1]}")
    if bank.dtype != queries.dtype:
        raise ValueError(f"bank is {launch.dtype_name(bank)}, queries are {launch.dtype_name(queries)}")


def geometry(queries: mx.array, bank: mx.array) -> dict[str, object]:
    """The launch of a kernel over tiles of queries and ranges of rows; neither is empty."""
    tile = 1 if len(queries) == 1 else _QUERIES
    rows = _ROWS if len(bank) >= _MANY_ROWS else 1
    groups = min(-(-len(bank) // (_SIMDGROUPS * rows)), _MOST_GROUPS, max(1, _PARTIAL_BYTES // (8 * len(queries))))
    width = _SIMDGROUPS * launch.SIMD_WIDTH
    return {
        "template": [("T", bank.dtype), ("QUERIES", tile), ("ROWS", rows)],
        "grid": (groups * width, -(-len(queries) // tile), 1),
        "threadgroup": (width, 1, 1),
        "output_shapes": [(groups, len(queries))] * 2,
        "output_dtypes": [mx.float32, mx.int32],
    }


def unit(vectors: mx.array) -> mx.array:
    """Rows scaled to unit norm in float32; zeros stay zeros. Scaled twice, so that no square overflows or vanishes."""
    vectors = vectors.astype(mx.float32)
    largest = mx.abs(vectors).max(axis=-1, keepdims=True)
    vectors = vectors / mx.where(largest > 0, largest, 1)
    norms = mx.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / mx.where(norms > 0, norms, 1)


def chunks(bank: mx.array, products: int = 1) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The bank on a CPU in pieces: (first row, rows float32 [n, D], inverse norms float32 [n]).

    A row times its inverse norm has unit norm; zeros stay zeros. `products`: how many floats the caller makes of a row;
    they are in the size of a piece too.
    """
    size = max(1, _CHUNK_BYTES // (4 * max(products, bank.shape[1])))
    # One view of the whole bank, where there can be one: a slice of MLX's takes as long as the norms of a small piece.
    view = np.array(bank, copy=False) if bank.dtype == mx.float32 else None
    for start in range(0, len(bank), size):
        piece = slice(start, start + size)
        rows = np.array(bank[piece].astype(mx.float32), copy=False) if view is None else view[piece]
        squared = np.einsum("rd,rd->r", rows, rows)
        if squared.max() > LARGEST_SQUARES or squared.min() < SMALLEST_SQUARES:
            rows = rows * rescue(squared)[:, None]
            squared = np.einsum("rd,rd->r", rows, rows)
        # Only zeros are below the least float by now, and they stay zeros times anything finite.
        yield start, rows, 1 / np.sqrt(np.maximum(squared, np.finfo(np.float32).tiny))


def unit_rows(vectors: mx.array) -> np.ndarray:
    """`unit` on a CPU: float32 [n, D]."""
    units = np.zeros(vectors.shape, np.float32)
    for start, rows, inverse in chunks(vectors):
        np.multiply(rows, inverse[:, None], out=units[start : start + len(rows)])
    return units


def product_rows(count: int) -> int:
    """How many rows a product with so many is best given: OpenBLAS takes up to twice as long over 6 as over 8."""
    return 1 if count == 1 else -(-count // 8) * 8
