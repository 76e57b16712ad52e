"""Launch geometry and normalization for the two kernels of cosine distances."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

import mlx.core as mx
import numpy as np

from .build import SIMD_WIDTH
from .safe_scale import LARGEST_SQUARES, SMALLEST_SQUARES, safe_scale

_SIMDGROUPS = 8
# Queries of a tile, for which a row is read once, and rows of a block, for which a tile is read once.
_TILE_QUERIES = 8
_BLOCK_ROWS = 4
# A smaller bank has too few rows to give each simdgroup a whole block at a time.
_MIN_ROWS_FOR_BLOCKS = 4096
# Maximum size of the partial results of all threadgroups, 8 bytes per query and group.
_PARTIAL_BYTES = 1 << 20
# Enough groups for any GPU, and few enough that each processes many rows per reading of its queries' norms.
_MAX_GROUPS = 512
# Size of a bank's chunk on a CPU: smaller ones cost more calls, larger ones do not stay in the cache between the norms
# and the products.
_CHUNK_BYTES = 1 << 23


class LaunchGeometry(TypedDict):
    """Keyword arguments of a kernel's call."""

    template: list[tuple[str, object]]
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    output_shapes: list[tuple[int, int]]
    output_dtypes: list[mx.Dtype]


def launch_geometry(queries: mx.array, bank: mx.array) -> LaunchGeometry:
    """Return the launch geometry of a kernel over tiles of queries and ranges of rows.

    Args:
        queries: [B, D], B > 0.
        bank: [R, D], R > 0.

    Returns:
        Arguments of the kernel's call; its outputs are [groups, B].
    """
    tile = 1 if len(queries) == 1 else _TILE_QUERIES
    rows = _BLOCK_ROWS if len(bank) >= _MIN_ROWS_FOR_BLOCKS else 1
    groups = min(-(-len(bank) // (_SIMDGROUPS * rows)), _MAX_GROUPS, max(1, _PARTIAL_BYTES // (8 * len(queries))))
    threads = _SIMDGROUPS * SIMD_WIDTH
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

    Args:
        vectors: [N, D], any float dtype.

    Returns:
        float32 [N, D].
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
        products: Number of floats that the caller computes from a row; they limit the size of a chunk too.

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
            rows = rows * safe_scale(squares)[:, None]
            squares = np.einsum("rd,rd->r", rows, rows)
        # Only zero rows are below the smallest normal float now, and they stay zero times any finite number.
        yield start, rows, 1 / np.sqrt(np.maximum(squares, np.finfo(np.float32).tiny))


def normalize_on_cpu(vectors: mx.array) -> np.ndarray:
    """Scale rows to unit norm in NumPy; zero rows stay zero.

    Args:
        vectors: [N, D], any float dtype.

    Returns:
        float32 [N, D].
    """
    normalized = np.zeros(vectors.shape, np.float32)
    for start, rows, inverse_norms in bank_chunks(vectors):
        np.multiply(rows, inverse_norms[:, None], out=normalized[start : start + len(rows)])
    return normalized


def padded_row_count(count: int) -> int:
    """Return `count` rounded up to a multiple of 8, or 1: OpenBLAS takes up to twice as long for 6 rows as for 8."""
    return 1 if count == 1 else -(-count // 8) * 8
