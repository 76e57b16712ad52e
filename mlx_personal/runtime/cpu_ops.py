"""What MLX has fused kernels for on a GPU, faster on a CPU: normalization, rotary embedding, attention, with gradients.

On a CPU `mx.fast` is a sequence of ordinary operations, some dozens a call, and all of them are done again for the
gradient. A small model's training is made of them more than of products.
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
"""As `mx.fast.scaled_dot_product_attention`: q [B, H, n, d], k and v [B, K, m, d], scale, mask; [B, H, n, d]."""


def _as_it_is(attention: Attention) -> Attention:
    return attention


@contextlib.contextmanager
def fast(model: nn.Module, attention: Callable[[Attention], Attention] = _as_it_is) -> Iterator[None]:
    """Inside, on a CPU, `model` computes with the functions of this file and the activation of `exponential`.

    On any device it attends by what `attention` makes of the function it would use. All this holds for other models in
    the same time, too, and in every thread: to be entered in one thread only.
    """
    names = ("scaled_dot_product_attention", "rms_norm", "rope")
    # mlx-lm's families all go through `mx.fast`, and look there at each call.
    originals = {name: getattr(mx.fast, name) for name in names}
    used: dict[str, Any] = dict(originals)
    if device_name() == "cpu":
        own: Sequence[Callable[..., mx.array]] = (_attention, _rms_norm, _rope)
        used = {name: functools.partial(function, originals[name]) for name, function in zip(names, own, strict=True)}
    used[names[0]] = attention(used[names[0]])
    for name in names:
        setattr(mx.fast, name, used[name])
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
    """Keeps each head's probabilities for the gradient."""
    # What a family adds to its scores may itself have a gradient: DeepSeek's rotary part is such a mask.
    own = mask is None or isinstance(mask, str) or (mask.dtype == mx.bool_ and mask.ndim in (2, 4))
    if not own or sinks is not None or not q.dtype == k.dtype == v.dtype == mx.float32:
        return original(q, k, v, scale=scale, mask=mask, sinks=sinks, **kwargs)
    batch, heads, queries, _ = q.shape
    groups = heads // k.shape[1]
    # The query heads that share a key head, one below the other: one product instead of `groups`.
    stacked = (batch, k.shape[1], groups * queries)
    grouped = (batch, k.shape[1], groups, queries, k.shape[2])
    if isinstance(mask, str):
        mask = mx.tri(queries, k.shape[2], k.shape[2] - queries, dtype=mx.bool_)
    elif mask is not None and mask.ndim == 4:
        by_heads = (k.shape[1], groups) if mask.shape[1] == heads else (1, 1)
        mask = mask.reshape(mask.shape[0], *by_heads, *mask.shape[2:])

    @mx.custom_function
    def attend(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        scores = (q * scale) @ k.swapaxes(-1, -2)
        if mask is not None:
            # Not -inf: a query that sees nothing gets the mean of all values, as from MLX, and no NaN.
            scores = mx.where(mask, scores.reshape(grouped), mx.finfo(mx.float32).min).reshape(*stacked, -1)
        shares, _ = softmax(scores)
        return shares @ v, shares

    @attend.vjp
    def attend_vjp(primals: Any, slopes: Any, outputs: Any) -> tuple[mx.array, mx.array, mx.array]:
        (q, k, v), slope, (attended, shares) = primals, slopes[0], outputs
        of_shares = slope @ v.swapaxes(-1, -2)
        of_scores = shares * (of_shares - _sums(slope * attended))
        return (of_scores @ k) * scale, of_scores.swapaxes(-1, -2) @ (q * scale), shares.swapaxes(-1, -2) @ slope

    found: Any = attend(q.reshape(*stacked, -1), k, v)
    attended: mx.array = found[0].reshape(batch, heads, queries, -1)
    return attended


def _rms_norm(original: Callable[..., mx.array], x: mx.array, weight: Any, eps: float, **kwargs: Any) -> mx.array:
    """Keeps each token's factor for the gradient."""
    if weight is None or not x.dtype == weight.dtype == mx.float32:
        return original(x, weight, eps, **kwargs)
    width = x.shape[-1]

    @mx.custom_function
    def norm(x: mx.array, weight: mx.array) -> tuple[mx.array, mx.array]:
        factor = mx.rsqrt(_sums(x * x) / width + eps)
        return x * factor * weight, factor

    @norm.vjp
    def norm_vjp(primals: Any, slopes: Any, outputs: Any) -> tuple[mx.array, mx.array]:
        (x, weight), slope, factor = primals, slopes[0], outputs[1]
        weighted = slope * weight
        along = _sums(weighted * x) * (factor * factor * factor) / width
        of_weight = (slope * x * factor).reshape(-1, width).sum(axis=0)
        return weighted * factor - x * along, of_weight

    found: Any = norm(x, weight)
    normed: mx.array = found[0]
    return normed


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
    """Turns halves of whole heads from tables that all blocks share."""
    if traditional or base is None or not isinstance(offset, int) or dims != x.shape[-1] or x.dtype != mx.float32:
        settings = {"traditional": traditional, "base": base, "scale": scale, "offset": offset, "freqs": freqs}
        return original(x, dims, **settings, **kwargs)
    cosines, sines = _angles(x.shape[-2], dims, base, scale, offset)

    @mx.custom_function
    def turn(x: mx.array) -> mx.array:
        return x * cosines + _swapped(x) * sines

    @turn.vjp
    def turn_vjp(_: Any, slope: mx.array, __: Any) -> mx.array:
        return slope * cosines + _swapped(slope * sines)

    turned: Any = turn(x)
    return turned


# Of the last few batches.
@functools.lru_cache(maxsize=4)
def _angles(tokens: int, dims: int, base: float, scale: float, offset: int) -> tuple[mx.array, mx.array]:
    """Cosines, and sines with the sign of the half they go to, [T, d] each."""
    frequencies = base ** (-np.arange(dims // 2) / (dims // 2))
    angles = scale * (offset + np.arange(tokens))[:, None] * frequencies
    cosines, sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    return mx.array(np.concatenate([cosines, cosines], 1)), mx.array(np.concatenate([-sines, sines], 1))


def _swapped(x: mx.array) -> mx.array:
    """The second half of each head, then the first."""
    first, second = mx.split(x, 2, axis=-1)
    return mx.concatenate([second, first], axis=-1)


def _sums(x: mx.array) -> mx.array:
    """[..., n] summed to [..., 1]: by a product, which on a CPU is faster than MLX's sum, and more exact."""
    return x @ mx.ones((x.shape[-1], 1))
