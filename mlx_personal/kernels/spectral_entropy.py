"""Spectral entropy of embedding, the default EOE, for a batch of dialogues.

`mlx_personal.scoring.entropy` explains what it measures, and also implements it in NumPy with float64.

References:
    [Qin24 §3.2]
"""

from __future__ import annotations

import math
from typing import Final

import mlx.core as mx
import numpy as np

from . import build
from .checks import check_states
from .safe_scale import safe_scale

WINDOW: Final = 64
# Fraction of the states' energy below which a variance is only rounding in float32 and its spectrum is meaningless.
NO_VARIANCE: Final = 1e-12
_THREADS = 256
_ONE = np.ones((), np.float32)


def spectral_entropy(states: mx.array, lengths: mx.array) -> mx.array:
    """Compute the EOE of each dialogue.

    Args:
        states: Token states [B, T, D], float32, float16 or bfloat16, finite; tokens past a length are not read.
        lengths: Number of tokens of each dialogue, int32 [B]; numbers above T count as T.

    Returns:
        float32 [B] in 0..1. 0 for fewer than two tokens and for equal tokens.

    Raises:
        ValueError: If a shape or dtype is wrong; names the argument.
    """
    check_states(states, lengths)
    if len(states) == 0:
        return mx.zeros(0)
    return spectral_entropy_kernel(states, lengths) if build.on_gpu() else spectral_entropy_cpu(states, lengths)


def spectral_entropy_kernel(states: mx.array, lengths: mx.array) -> mx.array:
    """Compute `spectral_entropy` with its kernel; the arguments are already checked, and B is above 0."""
    kernel = build.build_kernel("spectral_entropy", ("states", "lengths"), ("entropies",))
    batch, windows = len(states), math.ceil(states.shape[1] / WINDOW)
    (entropies,) = kernel(
        inputs=[states, lengths],
        template=[("T", states.dtype)],
        grid=(_THREADS, windows, batch),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[(batch, windows)],
        output_dtypes=[mx.float32],
    )
    counts = mx.maximum((mx.minimum(lengths, states.shape[1]) + WINDOW - 1) // WINDOW, 1)
    return mx.clip(entropies.sum(axis=1) / counts, 0, 1)


def spectral_entropy_ops(states: mx.array, lengths: mx.array) -> mx.array:
    """Compute `spectral_entropy` in plain operations: the reference. MLX computes eigenvalues on the CPU only."""
    batch, tokens, dim = states.shape
    sizes = np.clip(np.array(lengths), 0, tokens)
    windows = [(b, start) for b in range(batch) if sizes[b] > 1 for start in window_starts(int(sizes[b]))]
    if not windows:
        return mx.zeros(batch)
    dialogue, start = np.array(windows).T
    within = np.arange(WINDOW)
    inside = within < sizes[dialogue][:, None]
    index = np.where(inside, dialogue[:, None] * tokens + start[:, None] + within, 0)
    values = states.reshape(-1, dim)[mx.array(index)].astype(mx.float32) * mx.array(inside)[:, :, None]
    largest = mx.abs(values).max(axis=(1, 2), keepdims=True)
    # Scale by a power of two, which rounds nothing: the squares below would overflow or vanish in float32.
    values = values * mx.where(largest > 1e12, 2.0**-80, mx.where(largest < 1e-12, 2.0**80, 1))
    # Differences to the first token lose no digits to an offset that all tokens have in common.
    shifted = (values - values[:, :1]) * mx.array(inside)[:, :, None]
    rows = mx.array(inside.sum(axis=1))[:, None, None]
    centered = (shifted - shifted.sum(axis=1, keepdims=True) / rows) * mx.array(inside)[:, :, None]
    gram = centered @ centered.swapaxes(1, 2)
    variance = mx.square(centered).sum(axis=(1, 2))
    varies = variance > NO_VARIANCE * mx.square(values).sum(axis=(1, 2))
    with mx.stream(mx.cpu):
        normalized = (gram / mx.where(varies, variance, 1)[:, None, None]).astype(mx.float64)
        eigenvalues = mx.maximum(mx.linalg.eigvalsh(normalized), 0).astype(mx.float32)
    shares = eigenvalues / eigenvalues.sum(axis=1, keepdims=True)
    entropies = -(shares * mx.log(mx.where(shares > 0, shares, 1))).sum(axis=1) / math.log(WINDOW)
    entropies = mx.where(varies, entropies, 0)
    counts = np.maximum(np.bincount(dialogue, minlength=batch), 1)
    totals = mx.zeros(batch).at[mx.array(dialogue)].add(entropies)
    return mx.clip(totals / mx.array(counts), 0, 1)


def spectral_entropy_cpu(states: mx.array, lengths: mx.array) -> mx.array:
    """Compute `spectral_entropy` in NumPy, products in float32: several times faster on a CPU than in MLX."""
    sizes = np.array(lengths).clip(0, states.shape[1])
    exact = np.array(states if states.dtype == mx.float32 else states.astype(mx.float32), copy=False)
    return mx.array([_entropy(dialogue[:size]) for dialogue, size in zip(exact, sizes, strict=True)], mx.float32)


def window_starts(length: int) -> list[int]:
    """Return the starts of the windows of 64 tokens that cover a text.

    The fewest possible windows are spread evenly, so they overlap a little if 64 does not divide the length.

    Args:
        length: Number of tokens; up to 64 are one window.
    """
    count = math.ceil(length / WINDOW)
    return [i * (length - WINDOW) // (count - 1) for i in range(count)] if count > 1 else [0] * count


def _entropy(dialogue: np.ndarray) -> float:
    """Return the EOE of token states, float32 [T, D]."""
    if len(dialogue) < 2:
        return 0.0
    grams = np.stack([_gram(dialogue[start : start + WINDOW]) for start in window_starts(len(dialogue))])
    shares = np.linalg.eigvalsh(grams).clip(min=0)
    entropies = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)
    return float(np.clip(entropies.mean() / math.log(WINDOW), 0, 1))


def _gram(window: np.ndarray, scale: np.ndarray = _ONE) -> np.ndarray:
    """Return the centered Gram matrix of a window float32 [n, D] divided by its trace, float64 [n, n].

    Without variance the matrix is zero.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow is visible in the trace
        values = window * scale if scale != 1 else window
        # Differences to the first token lose no digits to an offset that all tokens have in common.
        centered = values - values[0]
        centered -= centered.mean(axis=0)
        gram = (centered @ centered.T).astype(np.float64)
        trace = gram.trace()
        energy = np.einsum("nd,nd->", values, values)
    if scale == 1 and safe_scale(trace) != 1:
        return _gram(window, safe_scale(trace))
    return gram / trace if trace > NO_VARIANCE * energy else np.zeros_like(gram)
