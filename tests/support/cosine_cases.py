"""Vectors and a float64 reference for the tests of both distance kernels."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_personal.kernels import cosine

DTYPES = [mx.float32, mx.float16, mx.bfloat16]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def rounded(values: np.ndarray, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.array(np.asarray(values, np.float32)).astype(dtype)


def exact(values: mx.array) -> np.ndarray:
    """Return the values of an array of any float dtype in float64."""
    return np.array(values.astype(mx.float32)).astype(np.float64)


def cosine_distances(queries: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Return 1 - cos of each pair, [B, R]; 1 for zero vectors."""
    cosines = np.zeros((len(queries), len(bank)))
    for i, query in enumerate(queries):
        for j, row in enumerate(bank):
            norms = np.linalg.norm(query) * np.linalg.norm(row)
            cosines[i, j] = query @ row / norms if norms > 0 else 0.0
    return 1 - cosines


def spikes(count: int, dimensions: int) -> np.ndarray:
    """Return rows that are zero except for the last value: without it they are zero vectors."""
    rows = np.zeros((count, dimensions))
    rows[:, -1] = np.arange(1, count + 1)
    return rows


def in_groups(queries: mx.array, bank: mx.array, groups: int, block: int) -> cosine.LaunchGeometry:
    """Return a launch of `groups` threadgroups, in tiles of two queries and blocks of `block` rows."""
    return {
        **cosine.launch_geometry(queries, bank),
        "template": [("T", bank.dtype), ("QUERIES", 2), ("ROWS", block)],
        "grid": (groups * 256, -(-len(queries) // 2), 1),
        "output_shapes": [(groups, len(queries))] * 2,
    }


# Far from 1 on either side, but finite and normal in the dtype.
LARGE = {mx.float32: 1e37, mx.float16: 1e4, mx.bfloat16: 1e37}
SMALL = {mx.float32: 1e-30, mx.float16: 1e-3, mx.bfloat16: 1e-30}
SMALLEST = {mx.float32: 1.2e-38, mx.float16: 6.2e-5, mx.bfloat16: 1.2e-38}


def adversarial(dtype: mx.Dtype) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (queries, bank) by name, all with 40 dimensions."""
    large, small = LARGE[dtype], SMALL[dtype]
    by_row = np.resize([large, 1.0, small, large**0.4, small**0.4], 50)[:, None]
    by_value = np.resize([large, small], 40)
    return {
        "constant": (np.full((3, 40), 0.1), np.full((50, 40), 7.0)),
        "zero rows": (random(3, 40), random(50, 40) * (np.arange(50) % 3 > 0)[:, None]),
        "zero queries": (np.zeros((3, 40)), random(50, 40)),
        "opposite": (random(3, 40), -np.repeat(random(3, 40), 20, axis=0)),
        "only the last value": (spikes(3, 40), spikes(50, 40)),
        "only the last value, the smallest there is": (
            spikes(3, 40) * SMALLEST[dtype],
            spikes(50, 40) * SMALLEST[dtype],
        ),
        "huge": (random(3, 40) * large, random(50, 40) * large),
        "tiny": (random(3, 40) * small, random(50, 40) * small),
        "huge and tiny and ordinary": (random(3, 40) * by_row[:3], random(50, 40) * by_row),
        "huge beside tiny": (random(3, 40) * by_value, random(50, 40) * by_value),
        "nearly the same": (random(3, 40), np.repeat(random(3, 40), 20, axis=0) + 1e-4 * random(60, 40, seed=1)),
    }
