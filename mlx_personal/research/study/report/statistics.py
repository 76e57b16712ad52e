"""How sure a difference of two policies is: a paired bootstrap over seeds and dialogues, and Holm's correction.

Scores are matrices [seeds, dialogues]. A data set has the same evaluation dialogues for all seeds and policies, so the
design is crossed: one resample draws seeds with replacement and, apart from them, dialogues with replacement, and takes
the mean of what was drawn. Both sides of a difference see the same draw.

What three seeds can tell: the interval knows well how much a difference depends on the dialogues, of which there are
many, and only crudely how much it depends on the seed. Three seeds make ten different resamples; their bootstrap
variance is two thirds of the usual estimate, and the interval has nothing of the wider tails that so small a sample
asks for (Student's t at 95 %: 4.3 standard errors, not 2). It is therefore too narrow where seeds differ more than
dialogues do: `FALSE_VERDICTS` has by how much. By signs alone, three seeds that agree are no evidence at 5 %: that
happens by chance one time in four. A verdict here says that the difference holds for dialogues like these and, as far
as three runs show, for other seeds; fewer than three get none.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.05
# A difference of fewer seeds gets no verdict.
LEAST_SEEDS = 3
NO_DIFFERENCE, TOO_FEW = "no difference", "too few seeds"
# How often three seeds and no true difference give an interval that does not cover 0, which should be 1 in 20: by how
# many times the seeds' standard deviation is the dialogues' standard error. Of 12,000 simulated differences (60
# dialogues, normal effects of seeds and of dialogues); a test simulates them anew.
FALSE_VERDICTS = {0: 0.06, 1: 0.07, 2: 0.11, 5: 0.20}
_CHUNK = 1_000  # resamples drawn at once, so that memory stays at a chunk times (seeds + dialogues)


@dataclass(frozen=True)
class Estimate:
    """A figure, the 95 % percentile interval of its resamples, and how many seeds and dialogues it is of."""

    value: float
    low: float
    high: float
    seeds: int
    dialogues: int


@dataclass(frozen=True)
class Difference(Estimate):
    """An estimated difference.

    `p`: two-sided; `adjusted`: Holm's, over a family of comparisons, as `p` if alone. `seed_spread`: the standard
    deviation of the seeds' differences, in standard errors of the dialogues'; None where one of them is unknown.
    """

    p: float
    adjusted: float
    seed_spread: float | None = None

    @property
    def verdict(self) -> str:
        """`higher` or `lower`, or `no difference`: where the interval covers 0, or the adjusted p is not below 0.05.
        `too few seeds` where there are fewer than three.

        The interval is of this comparison alone; the correction is for making several. Either is enough to say no.
        """
        if self.seeds < LEAST_SEEDS:
            return TOO_FEW
        if self.low <= 0 <= self.high or self.adjusted >= LEVEL:
            return NO_DIFFERENCE
        return "higher" if self.value > 0 else "lower"


def resampled_means(scores: Sequence[np.ndarray], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """float64 [len(scores), resamples]: the mean of each matrix [seeds, dialogues] under the same resamples.

    A mean of drawn rows and columns is s' X d / (S N), where s and d count how often each was drawn. Equal shapes and
    `seed` give equal draws, whatever else was computed before. ValueError for shapes that differ, or nothing to draw.
    """
    tensor = np.array(scores, np.float64)
    if tensor.ndim != 3 or not tensor.size:
        raise ValueError(f"scores must be matrices of one shape [seeds, dialogues], none empty; got {tensor.shape}")
    if not np.isfinite(tensor).all():
        raise ValueError("scores must be finite")
    _, seeds, dialogues = tensor.shape
    counts_of_seeds, counts_of_dialogues = _draws(resamples, seeds, dialogues, seed)
    means = np.empty((len(tensor), resamples))
    for start in range(0, resamples, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        by_seed = counts_of_seeds[chunk] / seeds
        by_dialogue = counts_of_dialogues[chunk] / dialogues
        for n, matrix in enumerate(tensor):
            means[n, chunk] = ((by_dialogue @ matrix.T) * by_seed).sum(axis=1)
    return means


def mean(scores: np.ndarray, resamples: int = RESAMPLES) -> Estimate:
    """The mean of a matrix [seeds, dialogues], for one seed of dialogues alone."""
    return _estimate(float(np.mean(scores)), resampled_means([scores], resamples)[0], np.shape(scores))


def difference(scores: np.ndarray, other: np.ndarray, resamples: int = RESAMPLES) -> Difference:
    """The mean of `scores` - `other`, two matrices [seeds, dialogues] of the same seeds and dialogues."""
    if np.shape(scores) != np.shape(other):
        raise ValueError(f"shapes {np.shape(scores)} and {np.shape(other)} are no pairs")
    paired = np.subtract(scores, other, dtype=np.float64)
    found = _difference(float(paired.mean()), resampled_means([paired], resamples)[0], paired.shape)
    return dataclasses.replace(found, seed_spread=_seed_spread(paired))


def wins(scores: np.ndarray, base: np.ndarray) -> np.ndarray:
    """1 where a score is above the base's, 0 where it is below, 0.5 where they tie; their mean is the win rate."""
    return (np.sign(np.subtract(scores, base, dtype=np.float64)) + 1) / 2


def perplexity(nats: np.ndarray, tokens: np.ndarray, resamples: int = RESAMPLES) -> Estimate:
    """exp(all nats / all tokens): of matrices [seeds, dialogues] of summed cross entropies and of target tokens."""
    means = resampled_means([nats, tokens], resamples)
    return _estimate(float(np.exp(np.sum(nats) / np.sum(tokens))), np.exp(means[0] / means[1]), np.shape(nats))


def perplexity_difference(
    nats: np.ndarray, other_nats: np.ndarray, tokens: np.ndarray, resamples: int = RESAMPLES
) -> Difference:
    """How much higher a perplexity is than another one on the same tokens; below 0 is better."""
    means = resampled_means([nats, other_nats, tokens], resamples)
    ratios = np.exp(means[:2] / means[2])
    value = np.exp(np.sum(nats) / np.sum(tokens)) - np.exp(np.sum(other_nats) / np.sum(tokens))
    return _difference(float(value), ratios[0] - ratios[1], np.shape(nats))


def forgetting(nats: np.ndarray, base_nats: np.ndarray, resamples: int = RESAMPLES) -> Estimate:
    """The relative rise of the loss on general dialogues over the base model's: 0.1 is a loss 10 % higher.

    Summed cross entropies are enough: their target tokens are the same on both sides and cancel out.
    """
    means = resampled_means([nats, base_nats], resamples)
    return _estimate(float(np.sum(nats) / np.sum(base_nats) - 1), means[0] / means[1] - 1, np.shape(nats))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given: the family is exactly what is passed in.

    The k-th smallest of m is multiplied by m - k + 1, and none is let fall below the one before it.
    """
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, n in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[n]))
        adjusted[n] = floor
    return adjusted


@functools.lru_cache(maxsize=4)
def _draws(resamples: int, seeds: int, dialogues: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each seed and each dialogue is drawn: uint16 [resamples, seeds] and [resamples, dialogues].

    A report asks for the same draws hundreds of times, and they take longer than the products.
    """
    rng = np.random.default_rng(seed)
    chunks = [min(_CHUNK, resamples - start) for start in range(0, resamples, _CHUNK)]
    drawn = [(_counts(rng, count, seeds), _counts(rng, count, dialogues)) for count in chunks]
    return np.concatenate([s for s, _ in drawn]), np.concatenate([d for _, d in drawn])


def _counts(rng: np.random.Generator, resamples: int, of: int) -> np.ndarray:
    """[resamples, of]: how often each was drawn, `of` draws with replacement a resample."""
    drawn = rng.integers(0, of, (resamples, of)) + of * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * of).reshape(resamples, of).astype(np.uint16)


def _estimate(value: float, resampled: np.ndarray, shape: tuple[int, ...]) -> Estimate:
    low, high = np.percentile(resampled, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)])
    return Estimate(value, float(low), float(high), *shape)


def _seed_spread(paired: np.ndarray) -> float | None:
    """The standard deviation of the rows' means by the standard error of the columns'; None for one row or column."""
    seeds, dialogues = paired.shape
    if seeds < 2 or dialogues < 2:
        return None
    error = float(np.std(paired.mean(axis=0), ddof=1)) / dialogues**0.5
    return float(np.std(paired.mean(axis=1), ddof=1)) / error if error else None


def _difference(value: float, resampled: np.ndarray, shape: tuple[int, ...]) -> Difference:
    plain = _estimate(value, resampled, shape)
    share = min(float(np.mean(resampled <= 0)), float(np.mean(resampled >= 0)))
    # No share of so many resamples can be told from one of fewer than 1 in them all.
    p = min(1.0, max(2 * share, 1 / (len(resampled) + 1)))
    return Difference(plain.value, plain.low, plain.high, plain.seeds, plain.dialogues, p, p)
