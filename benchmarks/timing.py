"""Time several methods in turn, so that a short slowdown of the machine affects all of them."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How long a set of methods is measured.

    Attributes:
        duration_s: Seconds of the measurement.
        min_repeats: Minimum number of repeats, even if they take longer.
        max_repeats: Maximum number of repeats.
    """

    duration_s: float = 1.5
    min_repeats: int = 7
    max_repeats: int = 200


@dataclass(frozen=True)
class Timings:
    """The times of several methods.

    Attributes:
        seconds: Seconds of each repeat, by the name of the method; the same index is the same repeat.
    """

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median seconds of a method."""
        return statistics.median(self.seconds[name])

    def fastest(self, names: Iterable[str]) -> str:
        """Return the method with the lowest median, among those of these names that were measured."""
        return min((name for name in names if name in self.seconds), key=self.median)

    def ratio(self, name: str, other: str) -> float:
        """Return the time of a method divided by another's: the median of the ratios within each repeat."""
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)


def time_in_turn(methods: Mapping[str, Callable[[], object]], effort: Effort) -> Timings:
    """Time every method once per repeat, after one warm-up call of each.

    The order is random in each repeat, so that no method always finds the same data of another in the cache.

    Args:
        methods: Functions by name; a call must be complete when it returns.
        effort: How long to measure.
    """
    for method in methods.values():
        method()
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    order, rng = list(methods), random.Random(0)
    begin = time.perf_counter()
    for repeat in range(effort.max_repeats):
        if repeat >= effort.min_repeats and time.perf_counter() - begin > effort.duration_s:
            break
        rng.shuffle(order)
        for name in order:
            start = time.perf_counter()
            methods[name]()
            seconds[name].append(time.perf_counter() - start)
    return Timings(seconds)
