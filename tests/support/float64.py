"""Attention in float64, head by head, and its gradient by hand: the reference for what computes it otherwise."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import numpy as np


class Attended(NamedTuple):
    """[B, H, n, d], and the gradients of its product with a slope by q, k, v and what was added to the scores."""

    value: np.ndarray
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    added: np.ndarray


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, added: np.ndarray, slope: np.ndarray
) -> Attended:
    """Of q [B, H, n, d], k and v [B, K, m, d]; `added` [B, H, n, m] is -inf where nothing is to be seen."""
    q, k, v, added, slope = (a.astype(np.float64) for a in (q, k, v, added, slope))
    value, of_q, of_k, of_v, of_added = (np.zeros(a.shape) for a in (slope, q, k, v, added))
    shared = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            own, keys, values = q[b, h], k[b, h // shared], v[b, h // shared]
            scores = scale * own @ keys.T + added[b, h]
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
            value[b, h] = shares @ values
            of_shares = slope[b, h] @ values.T
            of_scores = shares * (of_shares - (shares * of_shares).sum(axis=1, keepdims=True))
            of_added[b, h] = of_scores
            of_q[b, h] = scale * of_scores @ keys
            of_k[b, h // shared] += scale * of_scores.T @ own
            of_v[b, h // shared] += shares.T @ slope[b, h]
    return Attended(value, of_q, of_k, of_v, of_added)


def causal(queries: int, keys: int) -> np.ndarray:
    """[n, m]: the last query sees all keys, the one before it one less."""
    return np.where(np.arange(keys) <= np.arange(queries)[:, None] + keys - queries, 0.0, -np.inf)


def off(found: mx.array | np.ndarray, wanted: np.ndarray) -> float:
    """Norm of the difference, in relation to the norm of what is wanted; to 1 where that is less."""
    found = np.array(found, np.float64)
    assert found.shape == wanted.shape
    return float(np.linalg.norm(found - wanted) / max(1.0, float(np.linalg.norm(wanted))))
