"""The study's statistics against enumeration, theory and a worked example; and the paper's own figures."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.research.study.report import published, statistics
from mlx_personal.research.study.report.statistics import (
    FALSE_VERDICTS,
    NO_DIFFERENCE,
    TOO_FEW,
    Difference,
    difference,
    forgetting,
    holm,
    mean,
    perplexity,
    perplexity_difference,
    resampled_means,
    wins,
)


def scores(seeds: Any = 3, dialogues: Any = 40, seed: Any = 0, level: Any = 0.2) -> Any:
    return np.random.default_rng(seed).normal(level, 0.05, (seeds, dialogues))


def judged(value: Any, low: Any, high: Any, adjusted: Any) -> Any:
    return Difference(value, low, high, 3, 40, p=adjusted, adjusted=adjusted).verdict


# The bootstrap


def test_a_resample_is_the_mean_of_the_drawn_rows_and_columns() -> None:
    matrix = scores()
    means = resampled_means([matrix], resamples=50)[0]
    seeds, dialogues = statistics._draws(50, 3, 40, 0)
    for n in range(50):
        drawn = matrix[np.ix_(np.repeat(range(3), seeds[n]), np.repeat(range(40), dialogues[n]))]
        assert drawn.shape == (3, 40)
        assert means[n] == pytest.approx(drawn.mean(), abs=1e-12)


def test_resamples_are_spread_as_all_possible_draws_are() -> None:
    matrix = np.array([[0.0, 1.0, 5.0], [2.0, -4.0, 3.0]])
    possible = [
        matrix[np.ix_(rows, columns)].mean()
        for rows in itertools.product(range(2), repeat=2)
        for columns in itertools.product(range(3), repeat=3)
    ]
    means = resampled_means([matrix])[0]
    assert means.mean() == pytest.approx(np.mean(possible), abs=0.05)
    assert means.std() == pytest.approx(np.std(possible), rel=0.03)
    assert np.mean(means <= 0) == pytest.approx(np.mean(np.array(possible) <= 0), abs=0.02)


def test_with_one_seed_the_interval_is_that_of_a_mean_over_dialogues() -> None:
    matrix = scores(seeds=1, dialogues=400)
    found = mean(matrix)
    error = matrix.std(ddof=1) / math.sqrt(400)
    assert found.value == pytest.approx(matrix.mean())
    assert (found.low, found.high) == pytest.approx(
        (matrix.mean() - 1.96 * error, matrix.mean() + 1.96 * error), rel=1e-2
    )
    assert (found.seeds, found.dialogues) == (1, 400)


def test_seeds_that_differ_widen_the_interval() -> None:
    same = np.tile(scores(seeds=1), (3, 1))
    apart = same + np.array([[-0.05], [0.0], [0.05]])
    assert apart.mean() == pytest.approx(same.mean())
    narrow, wide = mean(same), mean(apart)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_matrices_resampled_together_see_the_same_draws_and_so_do_calls() -> None:
    a, b = scores(seed=1), scores(seed=2)
    together = resampled_means([a, b], resamples=200)
    assert np.array_equal(together[0], resampled_means([a], resamples=200)[0])
    assert together[0] - together[1] == pytest.approx(resampled_means([a - b], resamples=200)[0], abs=1e-12)
    assert not np.array_equal(together[0], resampled_means([a], resamples=200, seed=1)[0])


def test_a_last_chunk_may_be_short() -> None:
    assert resampled_means([scores()], resamples=2_300).shape == (1, 2_300)


@pytest.mark.parametrize("bad", [[], [np.zeros((3, 0))], [np.zeros(3)], [np.full((2, 2), np.nan)]])
def test_what_cannot_be_resampled_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="scores must be"):
        resampled_means(bad)


# Differences


def test_a_pairing_finds_a_small_difference_that_dialogues_hide() -> None:
    other = scores()
    found = difference(other + 0.002 + 0.001 * scores(seed=9, level=0.0), other)
    assert found.verdict == "higher"
    assert found.low < 0.002 < found.high < found.low + 0.001
    assert mean(other).high - mean(other).low > 0.01


def test_the_smallest_p_is_one_in_all_resamples_and_one() -> None:
    assert difference(scores() + 1, scores(), resamples=99).p == 1 / 100


def test_equal_scores_are_no_difference() -> None:
    found = difference(scores(), scores())
    assert (found.value, found.low, found.high, found.p, found.verdict) == (0, 0, 0, 1.0, NO_DIFFERENCE)


def test_swapping_the_sides_turns_the_difference_around() -> None:
    a, b = scores(seed=1), scores(seed=2)
    one, other = difference(a, b), difference(b, a)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert one.p == other.p


def test_scores_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        difference(scores(3), scores(2))


@pytest.mark.parametrize(
    ("value", "low", "high", "adjusted", "verdict"),
    [
        (0.01, 0.002, 0.02, 0.01, "higher"),
        (-0.01, -0.02, -0.002, 0.01, "lower"),
        (0.01, -0.001, 0.02, 0.01, NO_DIFFERENCE),
        (0.01, 0.0, 0.02, 0.01, NO_DIFFERENCE),
        (0.01, 0.002, 0.02, 0.05, NO_DIFFERENCE),
    ],
)
def test_a_verdict_needs_an_interval_off_zero_and_a_corrected_p_below_a_twentieth(
    value: float, low: float, high: float, adjusted: float, verdict: Any
) -> None:
    assert judged(value, low, high, adjusted) == verdict


def test_two_seeds_get_no_verdict() -> None:
    other = scores(seeds=2)
    found = difference(other + 0.1, other)
    assert (found.verdict, found.p < 0.05) == (TOO_FEW, True)
    assert difference(scores() + 0.1, scores()).verdict == "higher"


def test_the_spread_of_seeds_is_in_standard_errors_of_dialogues() -> None:
    dialogues = np.random.default_rng(3).normal(0, 1, 50)
    seeds = np.array([[-0.2], [0.1], [0.4]])
    found = difference(seeds + dialogues, np.zeros((3, 50)))
    assert found.seed_spread == pytest.approx(0.3 / (dialogues.std(ddof=1) / 50**0.5))
    assert difference(scores(seeds=1), np.zeros((1, 40))).seed_spread is None
    assert difference(scores(), scores()).seed_spread is None


@pytest.mark.parametrize(("times", "rate"), FALSE_VERDICTS.items())
def test_three_seeds_find_a_difference_where_none_is_as_often_as_is_said(times: Any, rate: Any) -> None:
    rng = np.random.default_rng(times)
    trials, dialogues = 2_000, 60
    seeds = rng.normal(0, times, (trials, 3, 1))
    differences = seeds + rng.normal(0, dialogues**0.5, (trials, 1, dialogues))
    low, high = np.percentile(resampled_means(list(differences), resamples=500), [2.5, 97.5], axis=1)
    # Three standard errors of a share of so many trials, and what fewer resamples change.
    assert np.mean((low > 0) | (high < 0)) == pytest.approx(rate, abs=3 * (rate / trials) ** 0.5 + 0.01)


# Holm's correction


def test_holm_adjusts_the_usual_worked_example() -> None:
    # p of four hypotheses: the first and the last are rejected at 0.05, the others not.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_of_none_and_of_one() -> None:
    assert holm([]) == []
    assert holm([0.03]) == [0.03]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_as_the_procedure_by_steps_does(p_values: Any) -> None:
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for step, n in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if (len(p_values) - step) * p_values[n] > level:
                break
            rejected.add(n)
        assert {n for n, p in enumerate(adjusted) if p <= level} == rejected
    assert all(p <= a <= min(1, len(p_values) * p) for p, a in zip(p_values, adjusted, strict=True))


# Beyond scores


def test_a_win_counts_one_and_a_tie_half() -> None:
    assert wins(np.array([[0.3, 0.2, 0.1]]), np.array([[0.1, 0.2, 0.3]])).tolist() == [[1.0, 0.5, 0.0]]


def test_perplexity_weighs_every_token_alike() -> None:
    nats, tokens = np.array([[10.0, 1.0]]), np.array([[10.0, 1.0]])
    assert perplexity(nats, tokens).value == pytest.approx(math.e)
    found = perplexity(np.array([[20.0, 1.0]]), tokens)
    assert found.value == pytest.approx(math.exp(21 / 11))
    # Resamples of the first dialogue alone and of the second alone are the ends.
    assert (found.low, found.high) == pytest.approx((math.e, math.exp(2)))


def test_a_difference_in_perplexity_is_paired() -> None:
    tokens = np.full((3, 40), 10.0)
    other = 10 * scores(level=3.0)
    found = perplexity_difference(other - 0.1, other, tokens)
    assert found.value == pytest.approx(perplexity(other - 0.1, tokens).value - perplexity(other, tokens).value)
    assert found.verdict == "lower"
    assert perplexity_difference(other, other, tokens).verdict == NO_DIFFERENCE


def test_forgetting_is_the_relative_rise_of_the_loss() -> None:
    base = 10 * scores(level=3.0)
    found = forgetting(1.1 * base, base)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


# The paper's figures


def test_all_of_the_papers_curves_are_there_and_end_in_its_table() -> None:
    assert len(published.names()) == 6
    for data in published.names():
        for policy in ("quality", "random", "fifo", "k-center"):
            points = published.curve(data, policy)
            assert list(points) == [800, 1600, 2400, 3200, 4000, 4600]
            assert [p.printed for p in points.values()] == [False] * 5 + [policy == "quality"]
        printed = published.published()["ablation"]["data"][data]["printed"]
        assert published.curve(data, "quality")[4600].value == printed["quality"]
        assert published.final(data, "eoe").value == printed["eoe"]


@pytest.mark.parametrize(
    ("data", "gain"),
    [("alpaca", 38), ("dolly", 41), ("prosocial", 29), ("empathetic", 39), ("openorca", 18), ("meddialog", 40)],
)
def test_the_papers_gains_follow_from_its_figures(data: str, gain: int) -> None:
    best = max(published.final(data, policy).value for policy in ("random", "fifo", "k-center"))
    assert 100 * (published.final(data, "quality").value / best - 1) == pytest.approx(gain, abs=1.5)


def test_what_the_paper_does_not_show_is_none() -> None:
    assert published.final("alpaca", "weighted") is None
    assert published.final("another", "quality") is None
    assert published.curve("another", "quality") == {}


def test_a_digitised_figure_says_so() -> None:
    assert published.final("alpaca", "fifo").text == "0.233 (digitised)"
    assert published.final("alpaca", "quality").text == "0.3736"
