"""Histogram entropy of embedding for a batch of dialogues, as in the script of the authors of [Qin24].

`mlx_personal.scoring.entropy` explains what it measures, and also implements it in NumPy.
"""

from __future__ import annotations

from typing import Final

import mlx.core as mx

from . import build
from .checks import check_states

BINS: Final = 100
_THREADS = 256


def histogram_entropy(states: mx.array, lengths: mx.array) -> mx.array:
    """Compute the entropy in bits of a histogram of each last token's values, divided by log2(length + 1).

    The histogram has 100 bins. A value on the edge between two bins is counted in the upper one; `numpy.histogram` may
    count it in the lower one.

    Args:
        states: Token states [B, T, D], float32, float16 or bfloat16, finite; only the last token of each dialogue is
            read.
        lengths: Number of tokens of each dialogue, int32 [B]; numbers above T count as T.

    Returns:
        float32 [B], not bounded by 1. 0 for a dialogue without tokens and for equal values.

    Raises:
        ValueError: If a shape or dtype is wrong; names the argument.
    """
    check_states(states, lengths)
    if len(states) == 0:
        return mx.zeros(0)
    return histogram_entropy_kernel(states, lengths) if build.on_gpu() else histogram_entropy_ops(states, lengths)


def histogram_entropy_kernel(states: mx.array, lengths: mx.array) -> mx.array:
    """Compute `histogram_entropy` with its kernel; the arguments are already checked, and B is above 0."""
    kernel = build.build_kernel("histogram_entropy", ("states", "lengths"), ("entropies",))
    (entropies,) = kernel(
        inputs=[states, lengths],
        template=[("T", states.dtype)],
        grid=(len(states) * _THREADS, 1, 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[(len(states),)],
        output_dtypes=[mx.float32],
    )
    return entropies


def histogram_entropy_ops(states: mx.array, lengths: mx.array) -> mx.array:
    """Compute `histogram_entropy` in plain operations on the CPU, where MLX has float64: the reference."""
    with mx.stream(mx.cpu):
        batch, tokens, dim = states.shape
        sizes = mx.clip(lengths, 0, tokens)
        last = mx.maximum(sizes - 1, 0)[:, None, None]
        values = mx.take_along_axis(states, last, axis=1)[:, 0].astype(mx.float64)
        low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
        # The quotient finds the bin approximately; the products, which float64 does not round here, decide at an edge.
        scaled, span = BINS * (values - low), high - low
        bins = mx.floor(scaled / mx.where(span > 0, span, 1)).astype(mx.int32)
        bins = bins - (scaled < bins * span) + (scaled >= (bins + 1) * span)
        bins = mx.minimum(bins, BINS - 1)
        flat = (bins + BINS * mx.arange(batch)[:, None]).reshape(-1)
        counts = mx.zeros(batch * BINS).at[flat].add(1).reshape(batch, BINS)
        probabilities = counts / dim
        bits = -(probabilities * mx.log2(mx.where(probabilities > 0, probabilities, 1))).sum(axis=1)
        return mx.where(sizes > 0, bits / mx.log2(mx.maximum(sizes, 1) + 1), 0)
