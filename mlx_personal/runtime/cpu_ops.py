"""Attention, RMSNorm and rotary embedding for CPUs, with gradients: MLX has fused kernels for them on GPUs only.

On a CPU a function of `mx.fast` consists of dozens of ordinary operations, all of which are repeated for the gradient.
Together they take more of a small model's training time than the matrix products.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_personal.runtime.cpu_exp import fast_activations, softmax
from mlx_personal.runtime.device import device_name

Attention = Callable[..., mx.array]
"""A function like `mx.fast.scaled_dot_product_attention`.

Its arguments are q [B, H, n, d], k and v [B, K, m, d], scale and mask; it returns [B, H, n, d].
"""


def _unchanged(attention: Attention) -> Attention:
    return attention


@contextlib.contextmanager
def fast_ops(model: nn.Module, wrap_attention: Callable[[Attention], Attention] = _unchanged) -> Iterator[None]:
    """Let a model use the functions of this module and `cpu_exp` on a CPU, inside the `with` block.

    The functions of `mx.fast` are replaced in the whole process, so also for other models and in all threads. Enter the
    block in one thread only.

    Args:
        model: A model of mlx-lm.
        wrap_attention: Wraps the attention function, on any device.
    """
    names = ("scaled_dot_product_attention", "rms_norm", "rope")
    # All model families of mlx-lm look up these functions in `mx.fast` at each call.
    originals = {name: getattr(mx.fast, name) for name in names}
    replacements: dict[str, Any] = dict(originals)
    if device_name() == "cpu":
        functions: Sequence[Callable[..., mx.array]] = (_attention, _rms_norm, _rope)
        replacements = {
            name: functools.partial(function, originals[name]) for name, function in zip(names, functions, strict=True)
        }
    replacements[names[0]] = wrap_attention(replacements[names[0]])
    for name in names:
        setattr(mx.fast, name, replacements[name])
    try:
        with fast_activations(model):
            yield
    finally:
        for name in names:
            setattr(mx.fast, name, originals[name])


def _attention(
    original: Attention,
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: Any = None,
    sinks: Any = None,
    **kwargs: Any,
) -> mx.array:
    """Compute attention, and save each head's probabilities for the backward pass."""
    # An additive mask may have a gradient of its own: in DeepSeek's families it is the rotary part of the scores.
    supported_mask = mask is None or isinstance(mask, str) or (mask.dtype == mx.bool_ and mask.ndim in (2, 4))
    if not supported_mask or sinks is not None or not q.dtype == k.dtype == v.dtype == mx.float32:
        return original(q, k, v, scale=scale, mask=mask, sinks=sinks, **kwargs)
    batch, heads, queries, _ = q.shape
    group_size = heads // k.shape[1]
    # The query heads that share a key head are stacked: one product instead of `group_size`.
    stacked = (batch, k.shape[1], group_size * queries)
    grouped = (batch, k.shape[1], group_size, queries, k.shape[2])
    if isinstance(mask, str):
        mask = mx.tri(queries, k.shape[2], k.shape[2] - queries, dtype=mx.bool_)
    elif mask is not None and mask.ndim == 4:
        by_heads = (k.shape[1], group_size) if mask.shape[1] == heads else (1, 1)
        mask = mask.reshape(mask.shape[0], *by_heads, *mask.shape[2:])

    @mx.custom_function
    def attend(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        scores = (q * scale) @ k.swapaxes(-1, -2)
        if mask is not None:
            # Not -inf: as in MLX, a query without visible keys returns the mean of all values instead of NaN.
            scores = mx.where(mask, scores.reshape(grouped), mx.finfo(mx.float32).min).reshape(*stacked, -1)
        probabilities, _ = softmax(scores)
        return probabilities @ v, probabilities

    @attend.vjp
    def attend_vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array, mx.array]:
        (q, k, v), cotangent, (output, probabilities) = primals, cotangents[0], outputs
        d_probabilities = cotangent @ v.swapaxes(-1, -2)
        d_scores = probabilities * (d_probabilities - _row_sums(cotangent * output))
        d_q = (d_scores @ k) * scale
        d_k = d_scores.swapaxes(-1, -2) @ (q * scale)
        d_v = probabilities.swapaxes(-1, -2) @ cotangent
        return d_q, d_k, d_v

    outputs: Any = attend(q.reshape(*stacked, -1), k, v)
    output: mx.array = outputs[0].reshape(batch, heads, queries, -1)
    return output


def _rms_norm(original: Callable[..., mx.array], x: mx.array, weight: Any, eps: float, **kwargs: Any) -> mx.array:
    """Compute RMSNorm, and save each token's factor for the backward pass."""
    if weight is None or not x.dtype == weight.dtype == mx.float32:
        return original(x, weight, eps, **kwargs)
    width = x.shape[-1]

    @mx.custom_function
    def norm(x: mx.array, weight: mx.array) -> tuple[mx.array, mx.array]:
        factor = mx.rsqrt(_row_sums(x * x) / width + eps)
        return x * factor * weight, factor

    @norm.vjp
    def norm_vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array]:
        (x, weight), cotangent, factor = primals, cotangents[0], outputs[1]
        weighted = cotangent * weight
        radial = _row_sums(weighted * x) * (factor * factor * factor) / width
        d_weight = (cotangent * x * factor).reshape(-1, width).sum(axis=0)
        return weighted * factor - x * radial, d_weight

    outputs: Any = norm(x, weight)
    normalized: mx.array = outputs[0]
    return normalized


def _rope(
    original: Callable[..., mx.array],
    x: mx.array,
    dims: int,
    *,
    traditional: bool,
    base: float | None,
    scale: float,
    offset: Any,
    freqs: Any = None,
    **kwargs: Any,
) -> mx.array:
    """Compute rotary embeddings of whole heads from tables that all layers share.

    References:
        [Su24]
    """
    if traditional or base is None or not isinstance(offset, int) or dims != x.shape[-1] or x.dtype != mx.float32:
        settings = {"traditional": traditional, "base": base, "scale": scale, "offset": offset, "freqs": freqs}
        return original(x, dims, **settings, **kwargs)
    cosines, sines = _rotary_tables(x.shape[-2], dims, base, scale, offset)

    @mx.custom_function
    def rotate(x: mx.array) -> mx.array:
        return x * cosines + _swap_halves(x) * sines

    @rotate.vjp
    def rotate_vjp(_: Any, cotangent: mx.array, __: Any) -> mx.array:
        return cotangent * cosines + _swap_halves(cotangent * sines)

    rotated: Any = rotate(x)
    return rotated


# Caches the tables of the last few batches.
@functools.lru_cache(maxsize=4)
def _rotary_tables(tokens: int, dims: int, base: float, scale: float, offset: int) -> tuple[mx.array, mx.array]:
    """Return cosines [T, d], and sines [T, d] with the sign for the half that they are added to."""
    frequencies = base ** (-np.arange(dims // 2) / (dims // 2))
    angles = scale * (offset + np.arange(tokens))[:, None] * frequencies
    cosines, sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    return mx.array(np.concatenate([cosines, cosines], 1)), mx.array(np.concatenate([-sines, sines], 1))


def _swap_halves(x: mx.array) -> mx.array:
    """Return the second half of each head, then the first."""
    first, second = mx.split(x, 2, axis=-1)
    return mx.concatenate([second, first], axis=-1)


def _row_sums(x: mx.array) -> mx.array:
    """Sum [..., n] to [..., 1] by a product, which on a CPU is faster and more exact than MLX's sum."""
    return x @ mx.ones((x.shape[-1], 1))
