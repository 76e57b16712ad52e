"""Means and gains with intervals: units are drawn as a whole, and wrong input is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.evaluation.intervals import MetricChange, bootstrap_interval
from mlx_personal.research import statistics
from mlx_personal.research.statistics import Interval, gain_interval, mean_interval, statistic_intervals


def test_without_units_the_interval_is_that_of_evaluation() -> None:
    values = np.random.default_rng(0).normal(size=40).tolist()
    assert mean_interval(values) == pytest.approx((np.mean(values), *bootstrap_interval(values)), rel=1e-12)
    before = np.random.default_rng(1).normal(size=40).tolist()
    change = MetricChange.of(before, values)
    assert gain_interval(before, values) == pytest.approx((change.gain, change.low, change.high), rel=1e-12)


def test_a_unit_is_drawn_with_all_its_values() -> None:
    """The reference is a bootstrap that draws user by user."""
    rng = np.random.default_rng(3)
    users = [rng.normal(rng.normal(), 0.1, rng.integers(1, 6)) for _ in range(12)]
    values, units = np.concatenate(users), [f"user {i}" for i, user in enumerate(users) for _ in user]
    means = [np.concatenate([users[i] for i in rng.integers(0, 12, 12)]).mean() for _ in range(10_000)]
    by_user = mean_interval(values.tolist(), units)
    assert by_user == pytest.approx((values.mean(), *np.quantile(means, [0.025, 0.975])), abs=0.04)
    # The order of the values does not matter, and each value alone would give too narrow an interval.
    order = rng.permutation(len(values))
    assert mean_interval(values[order].tolist(), [units[i] for i in order]).value == pytest.approx(by_user.value)
    alone = mean_interval(values.tolist())
    assert alone.high - alone.low < 0.8 * (by_user.high - by_user.low)


def test_a_gain_is_paired_within_units() -> None:
    before = np.random.default_rng(0).normal(size=30)
    gain = gain_interval(before.tolist(), (before + 0.5).tolist(), [i // 3 for i in range(30)])
    assert gain == pytest.approx((0.5, 0.5, 0.5)) and gain.sign == 1
    assert gain.text(signed=True) == "+0.500 (+0.500 to +0.500)"


def test_an_interval_covers_the_true_mean_in_95_percent_of_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 1_000)
    rng, num_covered = np.random.default_rng(0), 0
    units = [i // 2 for i in range(80)]
    for _ in range(200):
        users = rng.normal(2, 1, 40)
        interval = mean_interval((users.repeat(2) + rng.normal(0, 1, 80)).tolist(), units)
        num_covered += interval.low <= 2 <= interval.high
    assert 180 <= num_covered <= 199


def test_a_statistic_is_that_of_the_total_of_the_drawn_units() -> None:
    sums = np.array([[1.0, 1.0], [9.0, 1.0]])
    interval = statistic_intervals(sums, lambda totals: {"rms": np.sqrt(totals[..., 0] / totals[..., 1])})["rms"]
    # Of two units a resample has one twice, or both.
    assert interval == pytest.approx((math.sqrt(5), 1, 3))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12), st.integers(1, 3))
def test_the_value_is_the_mean_and_within_its_interval(values: list[float], size: int) -> None:
    interval = mean_interval(values, [i // size for i in range(len(values))])
    assert interval.value == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    assert min(values) - 1e-6 <= interval.low <= interval.high <= max(values) + 1e-6
    assert interval == mean_interval(values, [i // size for i in range(len(values))])


def test_the_values_of_one_unit_have_no_width() -> None:
    assert mean_interval([1.0, 3.0], ["one user", "one user"]) == Interval(2.0, 2.0, 2.0)
    assert mean_interval([3.0]) == Interval(3.0, 3.0, 3.0) and mean_interval([0.0]).sign == 0


@pytest.mark.parametrize("units", [None, []])
def test_no_values_are_refused(units: list[str] | None) -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([], units)
    with pytest.raises(ValueError, match="at least one value"):
        gain_interval([], [], units)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        mean_interval([1.0, wrong])
    with pytest.raises(ValueError, match="NaN or infinite"):
        gain_interval([1.0, wrong], [1.0, 2.0], ["a", "b"])
    with pytest.raises(ValueError, match="NaN or infinite"):
        statistic_intervals(np.array([[wrong]]), lambda totals: {"sum": totals[..., 0]})


def test_values_and_units_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="2 values have 1 units"):
        mean_interval([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="1 values before cannot be paired with 2 after"):
        gain_interval([1.0], [1.0, 2.0])
