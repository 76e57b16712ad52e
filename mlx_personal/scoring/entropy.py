"""EOE, the entropy of embedding [Qin24 §3.2]: how much the token states of a text differ from each other.

The paper defines EOE = -sum p log p / log n and does not define p. `ESTIMATORS` has three interpretations of it;
`benchmarks/results/entropy.md` reports how well each separates real dialogues from degenerate ones. An entropy depends
on one text only and does not detect boilerplate or word salad; the other scores and the rejection of near-duplicates
do.
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
    """Return the EOE of one dialogue, computed in float64; higher is better. 0..1, except for `histogram`.

    Args:
        states: Token states of the last hidden layer, [T, D]; T may be 0.
        estimator: A name in `ESTIMATORS`.

    Raises:
        ValueError: If no estimator has this name, or the states have another shape or are not finite.
    """
    check_estimator(estimator)
    return ESTIMATORS[estimator](_checked(states).astype(np.float64))


def entropies_of_embedding(dialogues: Sequence[np.ndarray], estimator: str = "spectral") -> list[float]:
    """Return the EOE of each dialogue, computed by the scoring kernels.

    On a GPU all kernels are launched before the first result is read. Estimators without a kernel process the dialogues
    one by one in float64.

    Args:
        dialogues: Token states of each dialogue, [T, D].
        estimator: A name in `ESTIMATORS`.

    Raises:
        ValueError: If no estimator has this name, or the states have another shape or are not finite.
    """
    check_estimator(estimator)
    if estimator not in _KERNELS:
        return [entropy_of_embedding(states, estimator) for states in dialogues]
    scores = [_launch_kernel(_checked(states), estimator) for states in dialogues]
    mx.eval(scores)
    return [float(np.array(score)) for score in scores]


def spectral(states: np.ndarray) -> float:
    """Return the mean entropy of the token Gram matrix's spectrum in windows of 64 tokens.

    p are the eigenvalues of the centered Gram matrix divided by their sum. The windows cover the text and are spread
    evenly, so they overlap if 64 does not divide the length; with shorter windows instead, a text of 65 tokens would
    score a tenth below one of 64. The entropy of each window is divided by log 64 for any length, so that a few words
    cannot score high, and the mean is clipped to 0..1. Windows keep long texts from scoring high for their length
    alone; the disadvantage is that text that repeats after more than about 30 tokens appears to be varied.

    Args:
        states: Token states, float64 [T, D]. The result is 0 for fewer than two tokens and for equal ones.
    """
    length = len(states)
    if length < 2:
        return 0.0
    windows = np.stack([states[start : start + WINDOW] for start in window_starts(length)])
    return float(np.clip(_spectral_entropies(windows).mean() / math.log(WINDOW), 0.0, 1.0))


def spectral_whole(states: np.ndarray) -> float:
    """Return the entropy of the same spectrum over the whole text, divided by log T.

    It detects long repetitions better than `spectral`, and decreases with the length of the text.

    Args:
        states: Token states, float64 [T, D]. The result is 0 for fewer than two tokens.
    """
    if len(states) < 2:
        return 0.0
    entropy = float(_spectral_entropies(states[None])[0])
    return float(np.clip(entropy / math.log(len(states)), 0.0, 1.0))


def histogram(states: np.ndarray) -> float:
    """Return the entropy as in the script of the authors of [Qin24], for comparison.

    It is the entropy in bits of a histogram of the last token's state with 100 bins, divided by log2(T + 1), where p is
    the density times the width of a bin. It is not bounded by 1 and depends mostly on the length.

    Args:
        states: Token states, float64 [T, D]. The result is 0 without tokens.
    """
    if len(states) == 0:
        return 0.0
    density, edges = np.histogram(states[-1], bins=BINS, density=True)
    p = density * np.diff(edges)
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum() / math.log2(len(states) + 1))


def _spectral_entropies(windows: np.ndarray) -> np.ndarray:
    """Return the Shannon entropies in nats of the spectra of centered Gram matrices: [N, W, D] -> [N]."""
    centered = windows - windows.mean(axis=1, keepdims=True)
    transposed = centered.transpose(0, 2, 1)
    # With fewer dimensions than tokens the other product has the same eigenvalues except zeros, and is smaller.
    gram = centered @ transposed if windows.shape[1] <= windows.shape[2] else transposed @ centered
    eigenvalues = np.linalg.eigvalsh(gram).clip(min=0.0)
    variance = eigenvalues.sum(axis=1, keepdims=True)
    energy = np.square(windows).sum(axis=(1, 2))[:, None]
    varies = variance > NO_VARIANCE * energy
    p = np.where(varies, eigenvalues / np.where(varies, variance, 1.0), 0.0)
    return np.asarray(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1))


def _checked(states: np.ndarray) -> np.ndarray:
    states = np.asarray(states)
    if states.ndim != 2:
        raise ValueError(f"token states must have the shape [T, D], not {list(states.shape)}")
    if not np.isfinite(states).all():
        raise ValueError("token states are not finite")
    return states


def _launch_kernel(states: np.ndarray, estimator: str) -> mx.array:
    if states.size == 0:
        return mx.array(0.0)
    # One launch per dialogue, because a batch would have to be padded to its longest dialogue.
    return _KERNELS[estimator](mx.array(states[None], mx.float32), mx.array([len(states)], mx.int32))[0]


ESTIMATORS: Final[dict[str, Callable[[np.ndarray], float]]] = {
    "spectral": spectral,
    "spectral-whole": spectral_whole,
    "histogram": histogram,
}
_KERNELS: Final = {"spectral": spectral_entropy, "histogram": histogram_entropy}
