"""Histogram entropy of embedding, as in the script of the authors of [Qin24], for a batch of dialogues.

`mlx_personal.scoring.entropy` explains what it measures, and implements it in NumPy too.
"""

from __future__ import annotations

from typing import Final

import mlx.core as mx

from . import launch

BINS: Final = 100
_THREADS = 256


def histogram_entropy(states: mx.array, lengths: mx.array) -> mx.array:
    """Compute the entropy in bits of a histogram of each last token's values, divided by log2(length + 1).

    The histogram has 100 bins. A value on the edge of two bins is in the upper one, whereas `numpy.histogram` may put
    it into the lower one.

    Args:
        states: Token embeddings [B, T, D], float32, float16 or bfloat16, finite; only the last token of each dialogue
            is read.
        lengths: int32 [B], number of tokens of each dialogue; more than T count as T.

    Returns:
        float32 [B], not bounded by 1. 0 for a dialogue without tokens and for equal values.

    Raises:
        ValueError: If a shape or dtype is wrong; names the argument.
    """
    launch.check_dialogues(states, lengths)
    if len(states) == 0:
        return mx.zeros(0)
    return histogram_entropy_kernel(states, lengths) if launch.on_gpu() else histogram_entropy_ops(states, lengths)


def histogram_entropy_kernel(states: mx.array, lengths: mx.array) -> mx.array:
    """Compute it with `histogram_entropy.metal`; the arguments are checked already, B is above 0."""
    kernel = launch.build_kernel("histogram_entropy", ("states", "lengths"), ("entropies",))
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
    """Compute it in plain operations, with bins in float64 on the CPU, the only device where MLX has float64."""
    with mx.stream(mx.cpu):
        batch, tokens, dim = states.shape
        sizes = mx.clip(lengths, 0, tokens)
        last = mx.maximum(sizes - 1, 0)[:, None, None]
        values = mx.take_along_axis(states, last, axis=1)[:, 0].astype(mx.float64)
        low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
        # The quotient gives the bin approximately; the products, which float64 does not round here, decide at an edge.
        scaled, span = BINS * (values - low), high - low
        bins = mx.floor(scaled / mx.where(span > 0, span, 1)).astype(mx.int32)
        bins = bins - (scaled < bins * span) + (scaled >= (bins + 1) * span)
        bins = mx.minimum(bins, BINS - 1)
        flat = (bins + BINS * mx.arange(batch)[:, None]).reshape(-1)
        counts = mx.zeros(batch * BINS).at[flat].add(1).reshape(batch, BINS)
        probabilities = counts / dim
        bits = -(probabilities * mx.log2(mx.where(probabilities > 0, probabilities, 1))).sum(axis=1)
        return mx.where(sizes > 0, bits / mx.log2(mx.maximum(sizes, 1) + 1), 0)
