"""Learning rates as a function of the step alone, so that a resumed training has the same; and when to stop early.

All rates are computed beforehand, in float64 and by Python: MLX's cosine is a float32 one, which near the end of the
decay has few digits left, and another one on every device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import mlx.core as mx

SCHEDULES: Final = ("cosine", "linear", "constant")


class LearningRateSchedule:
    """The learning rate of every step of a training, counted from 0: a linear rise, then the rest by its kind.

    An optimizer of MLX takes it as `learning_rate`; `at` is the same rate as a Python float. After the last step it
    stays what it was there.

    Args:
        kind: how it goes on from the peak: `cosine` and `linear` fall towards 0, which the step after the last would
            have; `constant` stays.
        peak: the highest rate.
        steps: optimizer steps of the whole training.
        warmup: share of the steps, 0..1, in which it rises; from a part of the peak, never from 0.

    ValueError for anything else.
    """

    def __init__(self, kind: str, peak: float, steps: int, warmup: float):
        if kind not in SCHEDULES:
            raise ValueError(f"schedule is {kind!r}; it must be one of {', '.join(SCHEDULES)}")
        if not 0 < peak < math.inf:
            raise ValueError(f"learning_rate is {peak}; it must be above 0 and finite")
        if steps < 1:
            raise ValueError(f"steps is {steps}; it must be at least 1")
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup is {warmup}; it must lie in 0..1")
        # Rounded first: 7 % of 100 steps are 7.000000000000001 in floating point, and no eighth step.
        rise = math.ceil(round(warmup * steps, 6))
        self._rates = [peak * _share(kind, step, rise, steps) for step in range(steps)]

    @functools.cached_property
    def _table(self) -> mx.array:
        # Imported here, so that checking settings does not import MLX.
        import mlx.core as mx

        return mx.array(self._rates, mx.float32)

    def at(self, step: int) -> float:
        return self._rates[min(step, len(self._rates) - 1)]

    def __call__(self, step: mx.array) -> mx.array:
        import mlx.core as mx

        return self._table[mx.minimum(step, len(self._rates) - 1)]


def _share(kind: str, step: int, rise: int, steps: int) -> float:
    """Of the peak."""
    if step < rise:
        return (step + 1) / (rise + 1)
    left = (steps - step) / (steps - rise)
    return {"cosine": math.sin(math.pi / 2 * left) ** 2, "linear": left, "constant": 1.0}[kind]


class EarlyStopping:
    """Remembers the best loss, and says stop after so many losses in a row that are not below it.

    Args:
        patience: losses in a row, at least 1; None never stops. ValueError for less.

    `best` and `best_step` are None until there was a finite loss: what is not a number is never the best.
    """

    def __init__(self, patience: int | None):
        if patience is not None and patience < 1:
            raise ValueError(f"patience is {patience}; it must be at least 1")
        self._patience = patience
        self.best: float | None = None
        self.best_step: int | None = None
        self._worse = 0

    def update(self, loss: float, step: int) -> bool:
        """Takes the loss found after `step`; whether to stop. It is a new best if `best_step` is `step` then."""
        if math.isfinite(loss) and (self.best is None or loss < self.best):
            self.best, self.best_step, self._worse = loss, step, 0
        else:
            self._worse += 1
        return self._patience is not None and self._worse >= self._patience

    def facts(self) -> dict[str, Any]:
        """What `restore` takes; for JSON."""
        return {"best": self.best, "best_step": self.best_step, "worse": self._worse}

    def restore(self, facts: Mapping[str, Any]) -> None:
        self.best, self.best_step, self._worse = facts["best"], facts["best_step"], facts["worse"]
