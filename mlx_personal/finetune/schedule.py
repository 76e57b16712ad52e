"""Learning rates as a function of the step, and early stopping.

All rates are computed beforehand in Python's float64: MLX's cosine is in float32, which loses precision near the end of
the decay and differs between devices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import mlx.core as mx

LR_SCHEDULER_TYPES: Final = ("cosine", "linear", "constant")


class LearningRateSchedule:
    """The learning rate of every step of a training run: a linear warmup, then a decay.

    It can be the `learning_rate` of an MLX optimizer; `at` returns the same rate as a Python float. After the last step
    the rate remains constant.

    Args:
        lr_scheduler_type: Decay after the peak: `cosine` and `linear` decrease to 0 at the step after the last one;
            `constant` does not decrease.
        learning_rate: Peak learning rate.
        steps: Number of optimizer steps of the whole training run.
        warmup_ratio: Fraction of the steps, 0 to 1, in which the rate increases from a value above 0.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, lr_scheduler_type: str, learning_rate: float, steps: int, warmup_ratio: float):
        if lr_scheduler_type not in LR_SCHEDULER_TYPES:
            known = ", ".join(LR_SCHEDULER_TYPES)
            raise ValueError(f"lr_scheduler_type is {lr_scheduler_type!r}; it must be one of {known}")
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate is {learning_rate}; it must be above 0 and finite")
        if steps < 1:
            raise ValueError(f"steps is {steps}; it must be at least 1")
        if not 0 <= warmup_ratio <= 1:
            raise ValueError(f"warmup_ratio is {warmup_ratio}; it must lie in 0..1")
        # Rounded first, since 7 % of 100 steps are 7.000000000000001 in floating point.
        warmup_steps = math.ceil(round(warmup_ratio * steps, 6))
        self._rates = [learning_rate * _fraction(lr_scheduler_type, s, warmup_steps, steps) for s in range(steps)]

    @functools.cached_property
    def _table(self) -> mx.array:
        # Imported here, so that checking settings does not import MLX.
        import mlx.core as mx

        return mx.array(self._rates, mx.float32)

    def at(self, step: int) -> float:
        """Return the learning rate of a step.

        Args:
            step: The step, from 0.
        """
        return self._rates[min(step, len(self._rates) - 1)]

    def __call__(self, step: mx.array) -> mx.array:
        """Return the learning rate of a step as an MLX scalar.

        Args:
            step: The step, from 0.
        """
        import mlx.core as mx

        return self._table[mx.minimum(step, len(self._rates) - 1)]


def _fraction(lr_scheduler_type: str, step: int, warmup_steps: int, steps: int) -> float:
    """Return the learning rate of a step as a fraction of the peak."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    remaining = (steps - step) / (steps - warmup_steps)
    return {"cosine": math.sin(math.pi / 2 * remaining) ** 2, "linear": remaining, "constant": 1.0}[lr_scheduler_type]


class EarlyStopping:
    """Track the best loss, and stop after a number of consecutive losses that are not better.

    Args:
        patience: Number of consecutive losses, at least 1; None never stops.

    Attributes:
        best: The lowest finite loss; None if there is none.
        best_step: The step of that loss.

    Raises:
        ValueError: If the patience is below 1.
    """

    def __init__(self, patience: int | None):
        if patience is not None and patience < 1:
            raise ValueError(f"patience is {patience}; it must be at least 1")
        self._patience = patience
        self.best: float | None = None
        self.best_step: int | None = None
        self._worse = 0

    @property
    def stopped(self) -> bool:
        """Whether to stop, since the last losses were not better."""
        return self._patience is not None and self._worse >= self._patience

    def update(self, loss: float, step: int) -> bool:
        """Record the loss after a step. If it is the best, `best_step` is that step afterwards.

        Args:
            loss: The loss; it is never the best if it is not finite.
            step: The step.

        Returns:
            Whether to stop.
        """
        if math.isfinite(loss) and (self.best is None or loss < self.best):
            self.best, self.best_step, self._worse = loss, step, 0
        else:
            self._worse += 1
        return self.stopped

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values, for `load_state_dict`."""
        return {"best": self.best, "best_step": self.best_step, "worse": self._worse}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state.

        Args:
            state: The result of `state_dict`.
        """
        self.best, self.best_step, self._worse = state["best"], state["best_step"], state["worse"]
