"""Means and paired gains with 95 % percentile bootstrap intervals, resampled by user or by seed [Efron93].

The values of one user, or of one seed, are not independent of each other. Such a unit is therefore drawn with all its
values, and only the draw of units is random. Units with more values have more weight in a mean, as all values have the
same. All functions are deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from mlx_personal.evaluation.intervals import bootstrap_interval

NUM_RESAMPLES: Final = 10_000
# Resamples that are drawn at once, which limits memory.
_CHUNK: Final = 1_000


class Interval(NamedTuple):
    """A value with its 95 % interval.

    Attributes:
        value: The value over all units.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval excludes 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def text(self, signed: bool = False) -> str:
        """Return the numbers for a table, such as `0.120 (0.080 to 0.160)`.

        Args:
            signed: Write a plus before positive numbers, as for a gain.
        """
        value, low, high = (f"{number:+.3f}" if signed else f"{number:.3f}" for number in self)
        return f"{value} ({low} to {high})"


def mean_interval(values: Sequence[float], units: Sequence[Hashable] | None = None) -> Interval:
    """Return the mean of some values with its interval.

    Args:
        values: N values.
        units: For each value the user or seed that is resampled as a whole; None to resample each value alone.

    Returns:
        The mean; for a single unit, both ends of the interval are the mean.

    Raises:
        ValueError: If there are no values, one is NaN or infinite, or there are not as many units.
    """
    data = _finite(values)
    if units is None:
        return Interval(float(data.mean()), *bootstrap_interval(data.tolist(), resamples=NUM_RESAMPLES))
    if len(units) != len(data):
        raise ValueError(f"{len(data)} values have {len(units)} units")
    rows = {unit: row for row, unit in enumerate(dict.fromkeys(units))}
    sums = np.zeros((len(rows), 2))
    np.add.at(sums, [rows[unit] for unit in units], np.stack([data, np.ones(len(data))], axis=1))
    return statistic_intervals(sums, lambda totals: {"mean": totals[..., 0] / totals[..., 1]})["mean"]


def gain_interval(before: Sequence[float], after: Sequence[float], units: Sequence[Hashable] | None = None) -> Interval:
    """Return the mean of the paired differences `after - before` with its interval.

    Args:
        before: N values.
        after: N values of the same dialogues or questions, in the same order.
        units: As in `mean_interval`.

    Raises:
        ValueError: As `mean_interval` does, or if there are not as many values before as after.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} values before cannot be paired with {len(after)} after")
    return mean_interval((_finite(after) - _finite(before)).tolist(), units)


def statistic_intervals(
    sums: np.ndarray, statistics: Callable[[np.ndarray], Mapping[str, np.ndarray]]
) -> dict[str, Interval]:
    """Return statistics of the total over all units, such as a macro-F1 over users, with their intervals.

    Args:
        sums: float64 [U, S], the sums of each of U units.
        statistics: Returns statistics [...] by name, given totals float64 [..., S].

    Raises:
        ValueError: If there are no units, or a sum is NaN or infinite.
    """
    sums = _finite(sums)
    rng, num_units = np.random.default_rng(0), len(sums)
    # How often each unit is drawn decides the total of a resample.
    shares = np.full(num_units, 1 / num_units)
    chunks = (rng.multinomial(num_units, shares, size=_CHUNK) @ sums for _ in range(NUM_RESAMPLES // _CHUNK))
    resampled = statistics(np.concatenate(list(chunks)))
    ends = {name: np.quantile(values, [0.025, 0.975]) for name, values in resampled.items()}
    totals = statistics(sums.sum(axis=0))
    return {name: Interval(float(totals[name]), float(low), float(high)) for name, (low, high) in ends.items()}


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    data = np.asarray(values, np.float64)
    if not len(data):
        raise ValueError("an interval needs at least one value")
    if not np.isfinite(data).all():
        raise ValueError("an interval needs finite values; one is NaN or infinite")
    return data
