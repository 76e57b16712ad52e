"""Bootstrap intervals [Efron93] of means over dialogues, and of paired differences between two models."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

# Number of resamples drawn at once, which limits memory.
_CHUNK: Final = 1_000


@dataclass(frozen=True)
class MetricChange:
    """The mean of a metric over dialogues for two models, and the 95 % confidence interval of the mean difference.

    Attributes:
        before: Mean of the first model.
        after: Mean of the second model.
        gain: Mean of the differences.
        low: Lower end of the confidence interval of the gain.
        high: Upper end of the confidence interval of the gain.
    """

    before: float
    after: float
    gain: float
    low: float
    high: float

    @classmethod
    def of(cls, before: Sequence[float], after: Sequence[float], seed: int = 0) -> MetricChange:
        """Compare the values of two models.

        Args:
            before: The first model's value for each dialogue.
            after: The second model's values, in the same order.
            seed: Random seed of the bootstrap.

        Raises:
            ValueError: If there are no values, or not as many of both models.
        """
        differences = [b - a for a, b in zip(before, after, strict=True)]
        low, high = bootstrap_interval(differences, seed)
        return cls(statistics.fmean(before), statistics.fmean(after), statistics.fmean(differences), low, high)


def bootstrap_interval(values: Sequence[float], seed: int = 0, resamples: int = 10_000) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean.

    For paired differences it is the interval of the paired bootstrap. For a single value both ends are that value.

    Args:
        values: The values.
        seed: Random seed of the resamples.
        resamples: Number of resamples.

    Returns:
        The 2.5th and the 97.5th percentile of the resampled means.

    Raises:
        ValueError: If there are no values.

    References:
        [Efron93]
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    data, rng = np.array(values, np.float64), np.random.default_rng(seed)
    means = [
        data[rng.integers(len(data), size=(min(_CHUNK, resamples - done), len(data)))].mean(axis=1)
        for done in range(0, resamples, _CHUNK)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)
