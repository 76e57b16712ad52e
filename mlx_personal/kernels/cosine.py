"""What the two kernels of cosine distances have in common: checks, launch geometry, and cosines on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

import mlx.core as mx
import numpy as np

from . import launch
from .rescue import LARGEST_SQUARES, SMALLEST_SQUARES, rescue

_SIMDGROUPS = 8
# Queries that share one reading of the bank, and rows that share one reading of those queries.
_QUERIES = 8
_ROWS = 4
# A smaller bank has too little work to give each simdgroup four rows at a time.
_MANY_ROWS = 4096
# Size of the partial results of all threadgroups, 8 bytes per query and group; and a number of groups that is enough
# for any GPU, yet small enough that each works on many rows for the one time it reads its queries' norms.
_PARTIAL_BYTES = 1 << 20
_MAX_GROUPS = 512
# Size of the part of a bank that a CPU works on at once: smaller parts cost more calls, larger ones do not stay in the
# cache between the norms and the products.
_CHUNK_BYTES = 1 << 23


def check_inputs(queries: mx.array, bank: mx.array) -> None:
    """Check queries [B, D] and a bank [R, D] of the same dtype.

    Raises:
        ValueError: If a shape or dtype is wrong; names the argument.
    """
    launch.check_matrix("queries", queries)
    launch.check_matrix("bank", bank)
    if bank.shape[1] != queries.shape[1]:
        raise ValueError(f"bank has {bank.shape[1]} dimensions, queries have {queries.shape[1]}")
    if bank.dtype != queries.dtype:
        raise ValueError(f"bank is {launch.dtype_name(bank)}, queries are {launch.dtype_name(queries)}")


class LaunchGeometry(TypedDict):
    """Keyword arguments of a kernel's call."""

    template: list[tuple[str, object]]
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    output_shapes: list[tuple[int, int]]
    output_dtypes: list[mx.Dtype]


def launch_geometry(queries: mx.array, bank: mx.array) -> LaunchGeometry:
    """Return the launch of a kernel over tiles of queries and ranges of rows.

    Args:
        queries: [B, D], B > 0.
        bank: [R, D], R > 0.

    Returns:
        Arguments of the kernel's call; its outputs are [groups, B].
    """
    tile = 1 if len(queries) == 1 else _QUERIES
    rows = _ROWS if len(bank) >= _MANY_ROWS else 1
    groups = min(-(-len(bank) // (_SIMDGROUPS * rows)), _MAX_GROUPS, max(1, _PARTIAL_BYTES // (8 * len(queries))))
    threads = _SIMDGROUPS * launch.SIMD_WIDTH
    return {
        "template": [("T", bank.dtype), ("QUERIES", tile), ("ROWS", rows)],
        "grid": (groups * threads, -(-len(queries) // tile), 1),
        "threadgroup": (threads, 1, 1),
        "output_shapes": [(groups, len(queries))] * 2,
        "output_dtypes": [mx.float32, mx.int32],
    }


def normalize(vectors: mx.array) -> mx.array:
    """Scale rows to unit norm in float32; zero rows stay zero.

    The rows are scaled twice, so that no square overflows or vanishes.
    """
    vectors = vectors.astype(mx.float32)
    largest = mx.abs(vectors).max(axis=-1, keepdims=True)
    vectors = vectors / mx.where(largest > 0, largest, 1)
    norms = mx.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / mx.where(norms > 0, norms, 1)


def bank_chunks(bank: mx.array, products: int = 1) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield a bank in chunks on a CPU.

    Args:
        bank: [R, D], any float dtype.
        products: Number of floats that the caller computes from a row, which count for the size of a chunk too.

    Yields:
        The index of the first row; the rows, float32 [n, D]; and their inverse norms, float32 [n]. A row times its
        inverse norm has unit norm, and zero rows stay zero.
    """
    size = max(1, _CHUNK_BYTES // (4 * max(products, bank.shape[1])))
    # A view of the whole bank if possible: slicing an MLX array takes as long as the norms of a small chunk.
    view = np.array(bank, copy=False) if bank.dtype == mx.float32 else None
    for start in range(0, len(bank), size):
        chunk = slice(start, start + size)
        rows = np.array(bank[chunk].astype(mx.float32), copy=False) if view is None else view[chunk]
        squares = np.einsum("rd,rd->r", rows, rows)
        if squares.max() > LARGEST_SQUARES or squares.min() < SMALLEST_SQUARES:
            rows = rows * rescue(squares)[:, None]
            squares = np.einsum("rd,rd->r", rows, rows)
        # Only zero rows are below the smallest normal float now, and they stay zero times any finite number.
        yield start, rows, 1 / np.sqrt(np.maximum(squares, np.finfo(np.float32).tiny))


def normalize_on_cpu(vectors: mx.array) -> np.ndarray:
    """Scale rows to unit norm like `normalize`, in NumPy: float32 [n, D]."""
    normalized = np.zeros(vectors.shape, np.float32)
    for start, rows, inverse_norms in bank_chunks(vectors):
        np.multiply(rows, inverse_norms[:, None], out=normalized[start : start + len(rows)])
    return normalized


def padded_row_count(count: int) -> int:
    """Return how many rows to pad a product of `count` rows to: OpenBLAS takes up to twice as long for 6 as for 8."""
    return 1 if count == 1 else -(-count // 8) * 8
