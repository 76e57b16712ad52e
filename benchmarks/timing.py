"""Times methods side by side: in turn, so that what slows the machine for a moment slows all of them."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How long one set of methods is measured: `seconds`, but at least `least` and at most `most` repeats."""

    seconds: float = 1.5
    least: int = 7
    most: int = 200


@dataclass(frozen=True)
class Timings:
    """Seconds of each method by name, one a repeat; the same place is the same repeat."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def fastest(self, names: Iterable[str]) -> str:
        """Which of these methods, passing over those not measured, has the lowest median."""
        return min((name for name in names if name in self.seconds), key=self.median)

    def ratio(self, name: str, other: str) -> float:
        """How many times as long `name` takes as `other`: median of the ratios within each repeat."""
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)


def in_turn(methods: Mapping[str, Callable[[], object]], effort: Effort) -> Timings:
    """Calls every method once a repeat, after one call of each that is not counted.

    A call must be complete when it returns. The order is drawn anew for each repeat: none always finds in the cache
    what the same other one left there.
    """
    for method in methods.values():
        method()
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    order, rng = list(methods), random.Random(0)
    begin = time.perf_counter()
    for repeat in range(effort.most):
        if repeat >= effort.least and time.perf_counter() - begin > effort.seconds:
            break
        rng.shuffle(order)
        for name in order:
            start = time.perf_counter()
            methods[name]()
            seconds[name].append(time.perf_counter() - start)
    return Timings(seconds)
