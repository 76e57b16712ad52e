"""Histogram entropy of embedding, as in the script of paper 1's authors, for a batch of dialogues.

`mlx_personal.scoring.entropy` says what it measures, and has it once more in NumPy.
"""

from __future__ import annotations

from typing import Final

import mlx.core as mx

from . import launch

BINS: Final = 100
_THREADS = 256


def histogram_entropy(states: mx.array, lengths: mx.array) -> mx.array:
    """Entropy of a 100-bin histogram of each last token's values in bits, over log2(length + 1), float32 [B].

    Not bounded by 1. 0 for a dialogue without tokens, and where all values are equal. A value at the edge of two bins
    is in the upper one, whereas `numpy.histogram` may put it into the lower.

    Args:
        states: token embeddings [B, T, D], float32, float16 or bfloat16, finite; only the last of each is read.
        lengths: int32 [B], how many tokens each dialogue has; more than T count as T.

    ValueError naming the argument whose shape or dtype is another.
    """
    launch.check_dialogues(states, lengths)
    if len(states) == 0:
        return mx.zeros(0)
    return histogram_entropy_kernel(states, lengths) if launch.on_gpu() else histogram_entropy_ops(states, lengths)


def histogram_entropy_kernel(states: mx.array, lengths: mx.array) -> mx.array:
    """The same by `histogram_entropy.metal`; arguments as above, checked, B above 0."""
    kernel = launch.build("histogram_entropy", ("states", "lengths"), ("entropies",))
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
    """The same in plain ops, with bins found in float64: on the CPU, the only place where MLX has it."""
    with mx.stream(mx.cpu):
        batch, tokens, dim = states.shape
        sizes = mx.clip(lengths, 0, tokens)
        last = mx.maximum(sizes - 1, 0)[:, None, None]
        values = mx.take_along_axis(states, last, axis=1)[:, 0].astype(mx.float64)
        low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
        # Products, which float64 does not round here, decide at an edge; the quotient only says about where.
        place, span = BINS * (values - low), high - low
        bins = mx.floor(place / mx.where(span > 0, span, 1)).astype(mx.int32)
        bins = bins - (place < bins * span) + (place >= (bins + 1) * span)
        bins = mx.minimum(bins, BINS - 1)
        flat = (bins + BINS * mx.arange(batch)[:, None]).reshape(-1)
        counts = mx.zeros(batch * BINS).at[flat].add(1).reshape(batch, BINS)
        shares = counts / dim
        bits = -(shares * mx.log2(mx.where(shares > 0, shares, 1))).sum(axis=1)
        return mx.where(sizes > 0, bits / mx.log2(mx.maximum(sizes, 1) + 1), 0)
