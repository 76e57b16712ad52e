"""EOE, the entropy of embedding (paper 1, 3.2): how much a text's token states differ from each other.

The paper writes EOE = -sum p log p / log n and leaves p open. Three readings stand here by name, in `ESTIMATORS`;
`benchmarks/results/entropy.md` says how well each tells real dialogues from degenerate ones. An entropy looks at one
text alone: boilerplate and word salad are for the other scores and for the refusal of near-duplicates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import mlx.core as mx
import numpy as np

from mlx_personal.kernels import histogram_entropy, spectral_entropy
from mlx_personal.kernels.histogram_entropy import BINS
from mlx_personal.kernels.spectral_entropy import NO_VARIANCE, WINDOW, window_starts
from mlx_personal.scoring.config import check_estimator


def entropy_of_embedding(states: np.ndarray, estimator: str = "spectral") -> float:
    """EOE of one dialogue; higher is better. 0..1, except for `histogram`.

    Args:
        states: token embeddings [T, D] from the last hidden layer; T may be 0.
        estimator: a name in `ESTIMATORS`.

    ValueError for an unknown name, another shape, or values that are not finite.
    """
    check_estimator(estimator)
    return ESTIMATORS[estimator](_checked(states).astype(np.float64))


def entropies_of_embedding(dialogues: Sequence[np.ndarray], estimator: str = "spectral") -> list[float]:
    """`entropy_of_embedding` of each of many dialogues, by the scoring kernels: on a GPU all of them run before any is
    waited for. In float64, one by one, where an estimator has no kernel."""
    check_estimator(estimator)
    if estimator not in _KERNELS:
        return [entropy_of_embedding(states, estimator) for states in dialogues]
    scores = [_by_kernel(_checked(states), estimator) for states in dialogues]
    mx.eval(scores)
    return [float(np.array(score)) for score in scores]


def spectral(states: np.ndarray) -> float:
    """p = shares of the eigenvalues of the centered token Gram matrix, in equal windows of 64 tokens.

    As many windows as cover the text, spread evenly, so that neighbors overlap a little where 64 does not divide it:
    cut into shorter ones instead, a text of 65 tokens would score a tenth below one of 64. The entropy of each window
    is divided by log 64, whatever its length, so that a few words cannot score high; the windows' mean is clipped to
    0..1. Windows keep a long text from scoring for its length alone; the price is that what repeats after more than
    about 30 tokens looks varied. 0 for fewer than two tokens, and where they do not differ.
    """
    length = len(states)
    if length < 2:
        return 0.0
    windows = np.stack([states[start : start + WINDOW] for start in window_starts(length)])
    return float(np.clip(_spectral_entropies(windows).mean() / math.log(WINDOW), 0.0, 1.0))


def spectral_whole(states: np.ndarray) -> float:
    """The same spectrum over the whole text, divided by log T: stricter on long repeats, and falls with length."""
    if len(states) < 2:
        return 0.0
    entropy = float(_spectral_entropies(states[None])[0])
    return float(np.clip(entropy / math.log(len(states)), 0.0, 1.0))


def histogram(states: np.ndarray) -> float:
    """As in the authors' published script, for comparison: not bounded by 1, and in effect a length meter.

    p = density times width over 100 bins of the values of the last token's state; bits, divided by log2(T + 1).
    """
    if len(states) == 0:
        return 0.0
    density, edges = np.histogram(states[-1], bins=BINS, density=True)
    p = density * np.diff(edges)
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum() / math.log2(len(states) + 1))


def _spectral_entropies(windows: np.ndarray) -> np.ndarray:
    """Shannon entropies (nats) of the eigenvalue shares of centered Gram matrices: [N, W, D] -> [N]."""
    centered = windows - windows.mean(axis=1, keepdims=True)
    flipped = centered.transpose(0, 2, 1)
    # With fewer dimensions than tokens the other product has the same eigenvalues but for zeros, and is smaller.
    gram = centered @ flipped if windows.shape[1] <= windows.shape[2] else flipped @ centered
    eigenvalues = np.linalg.eigvalsh(gram).clip(min=0.0)
    variance = eigenvalues.sum(axis=1, keepdims=True)
    energy = np.square(windows).sum(axis=(1, 2))[:, None]
    varies = variance > NO_VARIANCE * energy
    p = np.where(varies, eigenvalues / np.where(varies, variance, 1.0), 0.0)
    return np.asarray(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1))


def _checked(states: np.ndarray) -> np.ndarray:
    states = np.asarray(states)
    if states.ndim != 2:
        raise ValueError(f"token states have the shape [T, D], not {list(states.shape)}")
    if not np.isfinite(states).all():
        raise ValueError("token states that are not finite")
    return states


def _by_kernel(states: np.ndarray, estimator: str) -> mx.array:
    if states.size == 0:
        return mx.array(0.0)
    # One dialogue a launch: a batch would have to be padded to its longest one.
    return _KERNELS[estimator](mx.array(states[None], mx.float32), mx.array([len(states)], mx.int32))[0]


ESTIMATORS: Final[dict[str, Callable[[np.ndarray], float]]] = {
    "spectral": spectral,
    "spectral-whole": spectral_whole,
    "histogram": histogram,
}
_KERNELS: Final = {"spectral": spectral_entropy, "histogram": histogram_entropy}
