"""Attention and its gradient in float64, head by head: the reference for faster implementations."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import numpy as np


class AttentionResult(NamedTuple):
    """Output of attention, and the gradients of its product with a cotangent.

    Attributes:
        output: [B, H, n, d].
        d_q: Gradient with respect to q.
        d_k: Gradient with respect to k.
        d_v: Gradient with respect to v.
        d_bias: Gradient with respect to the bias of the scores.
    """

    output: np.ndarray
    d_q: np.ndarray
    d_k: np.ndarray
    d_v: np.ndarray
    d_bias: np.ndarray


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, bias: np.ndarray, cotangent: np.ndarray
) -> AttentionResult:
    """Compute attention of q [B, H, n, d] to k and v [B, K, m, d].

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        scale: Factor of the scores.
        bias: [B, H, n, m], added to the scores; -inf where a key is not visible.
        cotangent: [B, H, n, d], what the output is multiplied by for the gradients.
    """
    q, k, v, bias, cotangent = (a.astype(np.float64) for a in (q, k, v, bias, cotangent))
    output, d_q, d_k, d_v, d_bias = (np.zeros(a.shape) for a in (cotangent, q, k, v, bias))
    group_size = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            kv_head = h // group_size
            queries, keys, values = q[b, h], k[b, kv_head], v[b, kv_head]
            scores = scale * queries @ keys.T + bias[b, h]
            probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
            probabilities /= probabilities.sum(axis=1, keepdims=True)
            output[b, h] = probabilities @ values
            d_probabilities = cotangent[b, h] @ values.T
            d_scores = probabilities * (d_probabilities - (probabilities * d_probabilities).sum(axis=1, keepdims=True))
            d_bias[b, h] = d_scores
            d_q[b, h] = scale * d_scores @ keys
            d_k[b, kv_head] += scale * d_scores.T @ queries
            d_v[b, kv_head] += probabilities.T @ cotangent[b, h]
    return AttentionResult(output, d_q, d_k, d_v, d_bias)


def causal_bias(queries: int, keys: int) -> np.ndarray:
    """Return the bias [n, m] of causal attention: the last query sees all keys, the one before it one less."""
    return np.where(np.arange(keys) <= np.arange(queries)[:, None] + keys - queries, 0.0, -np.inf)


def relative_error(result: mx.array | np.ndarray, expected: np.ndarray) -> float:
    """Return the norm of the difference, relative to the norm of `expected` or to 1, whichever is larger."""
    result = np.array(result, np.float64)
    assert result.shape == expected.shape
    return float(np.linalg.norm(result - expected) / max(1.0, float(np.linalg.norm(expected))))
