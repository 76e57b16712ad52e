"""Learning rates against a float64 reference, in and out of MLX's optimizers, and early stopping."""

from __future__ import annotations

import json
import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.finetune.schedule import LR_SCHEDULER_TYPES, EarlyStopping, LearningRateSchedule


def reference(lr_scheduler_type: str, learning_rate: float, steps: int, warmup_steps: int) -> np.ndarray:
    """Return the rate of every step in float64, with NumPy's interpolation and cosine."""
    falling = np.arange(steps - warmup_steps) / max(steps - warmup_steps, 1)
    after = {
        "cosine": learning_rate * 0.5 * (1 + np.cos(np.pi * falling)),
        "linear": np.interp(falling, [0, 1], [learning_rate, 0]),
        "constant": np.full(steps - warmup_steps, learning_rate),
    }[lr_scheduler_type]
    return np.concatenate([np.linspace(0, learning_rate, warmup_steps + 2)[1:-1], after])


@pytest.mark.parametrize("lr_scheduler_type", LR_SCHEDULER_TYPES)
@pytest.mark.parametrize(
    ("steps", "warmup_ratio", "warmup_steps"),
    [(1, 0, 0), (1, 0.05, 1), (7, 0.5, 4), (100, 0.07, 7), (1000, 0.05, 50), (9, 1, 9)],
)
def test_learning_rates_match_the_reference(
    lr_scheduler_type: str, steps: int, warmup_ratio: float, warmup_steps: int
) -> None:
    schedule = LearningRateSchedule(lr_scheduler_type, 3e-4, steps, warmup_ratio)
    expected = reference(lr_scheduler_type, 3e-4, steps, warmup_steps)
    np.testing.assert_allclose([schedule.at(step) for step in range(steps)], expected, rtol=1e-9)
    np.testing.assert_allclose([schedule(mx.array(step)).item() for step in range(steps)], expected, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LR_SCHEDULER_TYPES), st.floats(1e-8, 10), st.integers(1, 3000), st.floats(0, 1))
def test_learning_rates_rise_to_the_peak_and_never_after(
    lr_scheduler_type: str, learning_rate: float, steps: int, warmup_ratio: float
) -> None:
    schedule = LearningRateSchedule(lr_scheduler_type, learning_rate, steps, warmup_ratio)
    rates = np.array([schedule.at(step) for step in range(steps)])
    assert (rates > 0).all() and rates.max() <= learning_rate
    top = rates.argmax()
    assert (np.diff(rates[: top + 1]) > 0).all() and (np.diff(rates[top:]) <= 0).all()


def test_learning_rates_match_mlx_schedules() -> None:
    warmup_steps = optim.linear_schedule(1e-3 / 6, 1e-3, 5)
    theirs = optim.join_schedules([warmup_steps, optim.cosine_decay(1e-3, 95)], [5])
    ours = LearningRateSchedule("cosine", 1e-3, 100, 0.05)
    for step in range(90):
        assert ours.at(step) == pytest.approx(theirs(mx.array(step)).item(), rel=1e-4)


def test_the_rate_stays_after_the_last_step() -> None:
    schedule = LearningRateSchedule("linear", 1.0, 4, 0)
    assert schedule.at(9) == schedule(mx.array(9, mx.uint64)).item() == schedule.at(3) == 0.25


def test_optimizers_accept_the_schedule_compiled_and_uncompiled() -> None:
    schedule = LearningRateSchedule("cosine", 0.1, 6, 0.34)
    weights = []
    for compiled in (True, False):
        model = nn.Linear(2, 1, bias=False)
        model.weight = mx.zeros((1, 2))
        optimizer = optim.SGD(learning_rate=schedule)
        optimizer.init(model.trainable_parameters())

        def step(model: nn.Module = model, optimizer: Any = optimizer) -> mx.array:
            optimizer.update(model, {"weight": mx.ones((1, 2))})
            return model.weight[0, 0]

        state = [model.state, optimizer.state]
        take = mx.compile(step, inputs=state, outputs=state) if compiled else step
        weights.append([take().item() for _ in range(6)])
    np.testing.assert_allclose(weights[1], -np.cumsum([schedule.at(i) for i in range(6)]), rtol=1e-6)
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("lr_scheduler_type", "learning_rate", "steps", "warmup_ratio", "name"),
    [
        ("cosin", 1e-3, 10, 0.1, "lr_scheduler_type"),
        ("cosine", 0.0, 10, 0.1, "learning_rate"),
        ("cosine", math.nan, 10, 0.1, "learning_rate"),
        ("cosine", math.inf, 10, 0.1, "learning_rate"),
        ("cosine", 1e-3, 0, 0.1, "steps"),
        ("cosine", 1e-3, 10, -0.1, "warmup_ratio"),
        ("cosine", 1e-3, 10, 1.1, "warmup_ratio"),
        ("cosine", 1e-3, 10, math.nan, "warmup_ratio"),
    ],
)
def test_invalid_arguments_are_named(
    lr_scheduler_type: str, learning_rate: float, steps: int, warmup_ratio: float, name: str
) -> None:
    with pytest.raises(ValueError, match=f"^{name} is "):
        LearningRateSchedule(lr_scheduler_type, learning_rate, steps, warmup_ratio)


# Early stopping


def stops(early_stopping: EarlyStopping, losses: list[float], first: int = 1) -> list[bool]:
    return [early_stopping.update(loss, step) for step, loss in enumerate(losses, first)]


def test_patience_losses_in_a_row_without_a_new_best_stop() -> None:
    early_stopping = EarlyStopping(2)
    assert stops(early_stopping, [3.0, 2.0, 2.5, 1.5, 1.5, 1.6]) == [False, False, False, False, False, True]
    assert (early_stopping.best, early_stopping.best_step) == (1.5, 4)


def test_no_patience_never_stops_but_tracks_the_best() -> None:
    early_stopping = EarlyStopping(None)
    assert not any(stops(early_stopping, [1.0] + [2.0] * 50))
    assert early_stopping.best_step == 1


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_are_never_the_best(loss: float) -> None:
    early_stopping = EarlyStopping(2)
    assert stops(early_stopping, [loss]) == [False]
    before: tuple[float | None, int | None] = early_stopping.best, early_stopping.best_step
    assert before == (None, None)
    assert stops(early_stopping, [1.0, loss, loss], 2) == [False, False, True]
    assert (early_stopping.best, early_stopping.best_step) == (1.0, 2)


def test_early_stopping_is_restored() -> None:
    losses = [3.0, 2.0, math.nan, 2.5, 1.0, 1.1, 1.2, 1.3]
    for cut in range(len(losses) + 1):
        whole, before, after = EarlyStopping(3), EarlyStopping(3), EarlyStopping(3)
        expected = stops(whole, losses)
        first = stops(before, losses[:cut])
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        assert first + stops(after, losses[cut:], cut + 1) == expected
        assert after.state_dict() == whole.state_dict()


def test_a_patience_below_one_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EarlyStopping(0)
