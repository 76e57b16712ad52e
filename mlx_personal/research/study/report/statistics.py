"""The uncertainty of a difference between two policies: a paired bootstrap and Holm's correction.

Scores are matrices [seeds, dialogues]. A data set has the same evaluation dialogues for all seeds and policies, so the
design is crossed: a resample draws seeds with replacement and, independently, dialogues with replacement, and takes the
mean of the drawn scores [Efron93]. Both sides of a difference use the same draws.

With three seeds the interval represents well how much a difference depends on the dialogues, of which there are many,
and only roughly how much it depends on the seed. Three seeds allow ten different resamples; their bootstrap variance is
two thirds of the usual estimate; and the interval lacks the wider tails that so small a sample requires (Student's t at
95 %: 4.3 standard errors, not 2). The interval is therefore too narrow where seeds differ more than dialogues do;
`FALSE_POSITIVE_RATES` shows by how much. The agreement of three seeds in sign alone is no evidence at the 5 % level,
because it happens by chance one time in four. A verdict means that the difference holds for similar dialogues and, as
far as three runs show, for other seeds. Fewer than three seeds get no verdict.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

NUM_RESAMPLES: Final = 10_000
SIGNIFICANCE_LEVEL: Final = 0.05
# A difference of fewer seeds gets no verdict.
MIN_SEEDS: Final = 3
NO_DIFFERENCE: Final = "no difference"
TOO_FEW_SEEDS: Final = "too few seeds"
# How often three seeds without a true difference give an interval that does not cover 0, nominally 0.05. The key is the
# ratio of the seeds' standard deviation to the dialogues' standard error. Measured on 12,000 simulated differences (60
# dialogues, normal effects of seeds and of dialogues); a test repeats the simulation.
FALSE_POSITIVE_RATES: Final = {0: 0.06, 1: 0.07, 2: 0.11, 5: 0.20}
# Resamples drawn at once; memory is proportional to this number times (seeds + dialogues).
_CHUNK_SIZE = 1_000


@dataclass(frozen=True)
class IntervalEstimate:
    """A value with its 95 % percentile interval.

    Attributes:
        value: The value.
        low: Lower end of the interval.
        high: Upper end of the interval.
        seeds: Number of seeds.
        dialogues: Number of dialogues.
    """

    value: float
    low: float
    high: float
    seeds: int
    dialogues: int


@dataclass(frozen=True)
class PairedDifference(IntervalEstimate):
    """A difference on the same seeds and dialogues.

    Attributes:
        p_value: Two-sided p-value.
        adjusted_p_value: P-value after Holm's correction over a family of comparisons; `p_value` for a single one.
        seed_spread: Standard deviation of the seeds' differences, in standard errors of the dialogues' differences;
            None where one of them is unknown.
    """

    p_value: float
    adjusted_p_value: float
    seed_spread: float | None = None

    @property
    def verdict(self) -> str:
        """`higher`, `lower`, `no difference` or `too few seeds`.

        There is no difference if the interval covers 0 or if the adjusted p-value is not below 0.05. The interval is
        that of this comparison alone; the correction accounts for making several comparisons.
        """
        if self.seeds < MIN_SEEDS:
            return TOO_FEW_SEEDS
        if self.low <= 0 <= self.high or self.adjusted_p_value >= SIGNIFICANCE_LEVEL:
            return NO_DIFFERENCE
        return "higher" if self.value > 0 else "lower"


def resampled_means(scores: Sequence[np.ndarray], resamples: int = NUM_RESAMPLES, seed: int = 0) -> np.ndarray:
    """Return the mean of each matrix under the same resamples.

    The mean of the drawn rows and columns of a matrix X is s' X d / (S N), where s and d count how often each row and
    column was drawn. Equal shapes and seeds give equal draws.

    Args:
        scores: M matrices of one shape, [seeds, dialogues].
        resamples: Number of resamples.
        seed: Random seed.

    Returns:
        Means, float64 [M, resamples].

    Raises:
        ValueError: If shapes differ, a matrix is empty, or a score is not finite.
    """
    matrices = np.array(scores, np.float64)
    if matrices.ndim != 3 or not matrices.size:
        raise ValueError(f"scores must be nonempty matrices of one shape [seeds, dialogues]; got {matrices.shape}")
    if not np.isfinite(matrices).all():
        raise ValueError("scores must be finite")
    _, seeds, dialogues = matrices.shape
    seed_counts, dialogue_counts = _draw_counts(resamples, seeds, dialogues, seed)
    means = np.empty((len(matrices), resamples))
    for start in range(0, resamples, _CHUNK_SIZE):
        chunk = slice(start, start + _CHUNK_SIZE)
        seed_weights = seed_counts[chunk] / seeds
        dialogue_weights = dialogue_counts[chunk] / dialogues
        for n, matrix in enumerate(matrices):
            means[n, chunk] = ((dialogue_weights @ matrix.T) * seed_weights).sum(axis=1)
    return means


def mean_estimate(scores: np.ndarray, resamples: int = NUM_RESAMPLES) -> IntervalEstimate:
    """Estimate the mean of a matrix [seeds, dialogues]; with one seed only dialogues are resampled."""
    return _estimate(float(np.mean(scores)), resampled_means([scores], resamples)[0], np.shape(scores))


def paired_difference(scores: np.ndarray, other: np.ndarray, resamples: int = NUM_RESAMPLES) -> PairedDifference:
    """Estimate the mean of `scores - other`.

    Args:
        scores: Scores, [seeds, dialogues].
        other: Scores of the same seeds and dialogues.
        resamples: Number of resamples.

    Raises:
        ValueError: If the shapes differ.
    """
    if np.shape(scores) != np.shape(other):
        raise ValueError(f"scores of shapes {np.shape(scores)} and {np.shape(other)} cannot be paired")
    paired = np.subtract(scores, other, dtype=np.float64)
    difference = _difference(float(paired.mean()), resampled_means([paired], resamples)[0], paired.shape)
    return dataclasses.replace(difference, seed_spread=_seed_spread(paired))


def win_matrix(scores: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Return 1 where a score is above the base's, 0 where it is below and 0.5 for ties; the mean is the win rate."""
    return (np.sign(np.subtract(scores, base, dtype=np.float64)) + 1) / 2


def perplexity_estimate(nats: np.ndarray, tokens: np.ndarray, resamples: int = NUM_RESAMPLES) -> IntervalEstimate:
    """Estimate the perplexity, exp(sum of nats / sum of tokens).

    Args:
        nats: Summed cross entropies, [seeds, dialogues].
        tokens: Numbers of target tokens, [seeds, dialogues].
        resamples: Number of resamples.
    """
    means = resampled_means([nats, tokens], resamples)
    return _estimate(float(np.exp(np.sum(nats) / np.sum(tokens))), np.exp(means[0] / means[1]), np.shape(nats))


def perplexity_difference(
    nats: np.ndarray, other_nats: np.ndarray, tokens: np.ndarray, resamples: int = NUM_RESAMPLES
) -> PairedDifference:
    """Estimate the difference of two perplexities on the same tokens; a value below 0 is an improvement."""
    means = resampled_means([nats, other_nats, tokens], resamples)
    perplexities = np.exp(means[:2] / means[2])
    value = np.exp(np.sum(nats) / np.sum(tokens)) - np.exp(np.sum(other_nats) / np.sum(tokens))
    return _difference(float(value), perplexities[0] - perplexities[1], np.shape(nats))


def forgetting_estimate(nats: np.ndarray, base_nats: np.ndarray, resamples: int = NUM_RESAMPLES) -> IntervalEstimate:
    """Estimate the relative increase of the loss on general dialogues over the base model's; 0.1 is 10 %.

    Summed cross entropies suffice, because the number of target tokens is the same on both sides and cancels out.
    """
    means = resampled_means([nats, base_nats], resamples)
    return _estimate(float(np.sum(nats) / np.sum(base_nats) - 1), means[0] / means[1] - 1, np.shape(nats))


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values [Holm79] in the given order.

    The k-th smallest of m p-values is multiplied by m - k + 1, and none is smaller than the previous one.

    Args:
        p_values: P-values of all comparisons of one family.
    """
    adjusted, previous = [0.0] * len(p_values), 0.0
    for rank, n in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        previous = max(previous, min(1.0, (len(p_values) - rank) * p_values[n]))
        adjusted[n] = previous
    return adjusted


@functools.lru_cache(maxsize=4)
def _draw_counts(resamples: int, seeds: int, dialogues: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each seed and dialogue is drawn: uint16 [resamples, seeds] and [resamples, dialogues].

    Cached, because a report uses the same draws hundreds of times and drawing takes longer than the products.
    """
    rng = np.random.default_rng(seed)
    chunks = [min(_CHUNK_SIZE, resamples - start) for start in range(0, resamples, _CHUNK_SIZE)]
    counts = [(_count_draws(rng, size, seeds), _count_draws(rng, size, dialogues)) for size in chunks]
    return np.concatenate([s for s, _ in counts]), np.concatenate([d for _, d in counts])


def _count_draws(rng: np.random.Generator, resamples: int, population: int) -> np.ndarray:
    """Return how often each item is drawn in `population` draws with replacement: [resamples, population]."""
    drawn = rng.integers(0, population, (resamples, population)) + population * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * population)
    return counts.reshape(resamples, population).astype(np.uint16)


def _estimate(value: float, resampled: np.ndarray, shape: tuple[int, ...]) -> IntervalEstimate:
    low, high = np.percentile(resampled, [100 * SIGNIFICANCE_LEVEL / 2, 100 * (1 - SIGNIFICANCE_LEVEL / 2)])
    return IntervalEstimate(value, float(low), float(high), *shape)


def _seed_spread(paired: np.ndarray) -> float | None:
    """Return the standard deviation of the row means in standard errors of the column means."""
    seeds, dialogues = paired.shape
    if seeds < 2 or dialogues < 2:
        return None
    error = float(np.std(paired.mean(axis=0), ddof=1)) / dialogues**0.5
    return float(np.std(paired.mean(axis=1), ddof=1)) / error if error else None


def _difference(value: float, resampled: np.ndarray, shape: tuple[int, ...]) -> PairedDifference:
    estimate = _estimate(value, resampled, shape)
    tail = min(float(np.mean(resampled <= 0)), float(np.mean(resampled >= 0)))
    # The resamples cannot resolve a probability below 1 in all of them plus one.
    p_value = min(1.0, max(2 * tail, 1 / (len(resampled) + 1)))
    return PairedDifference(**dataclasses.asdict(estimate), p_value=p_value, adjusted_p_value=p_value)
