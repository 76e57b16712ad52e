"""The statistics of the report against enumeration, theory and a worked example; and the published scores."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.research.study.report import statistics
from mlx_personal.research.study.report.published import (
    PublishedScore,
    published_curve,
    published_datasets,
    published_final_score,
    published_results,
)
from mlx_personal.research.study.report.statistics import (
    FALSE_POSITIVE_RATES,
    NO_DIFFERENCE,
    TOO_FEW_SEEDS,
    PairedDifference,
    forgetting_estimate,
    holm_adjusted,
    mean_estimate,
    paired_difference,
    perplexity_difference,
    perplexity_estimate,
    resampled_means,
    win_matrix,
)


def random_scores(seeds: int = 3, dialogues: int = 40, seed: int = 0, level: float = 0.2) -> np.ndarray:
    return np.random.default_rng(seed).normal(level, 0.05, (seeds, dialogues))


# The bootstrap


def test_a_resample_is_the_mean_of_the_drawn_rows_and_columns() -> None:
    matrix = random_scores()
    means = resampled_means([matrix], resamples=50)[0]
    seeds, dialogues = statistics._draw_counts(50, 3, 40, 0)
    for n in range(50):
        drawn = matrix[np.ix_(np.repeat(range(3), seeds[n]), np.repeat(range(40), dialogues[n]))]
        assert drawn.shape == (3, 40)
        assert means[n] == pytest.approx(drawn.mean(), abs=1e-12)


def test_resamples_are_distributed_like_all_possible_draws() -> None:
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
    matrix = random_scores(seeds=1, dialogues=400)
    estimate = mean_estimate(matrix)
    error = matrix.std(ddof=1) / math.sqrt(400)
    assert estimate.value == pytest.approx(matrix.mean())
    assert (estimate.low, estimate.high) == pytest.approx(
        (matrix.mean() - 1.96 * error, matrix.mean() + 1.96 * error), rel=1e-2
    )
    assert (estimate.seeds, estimate.dialogues) == (1, 400)


def test_differences_between_seeds_widen_the_interval() -> None:
    equal = np.tile(random_scores(seeds=1), (3, 1))
    different = equal + np.array([[-0.05], [0.0], [0.05]])
    assert different.mean() == pytest.approx(equal.mean())
    narrow, wide = mean_estimate(equal), mean_estimate(different)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_all_matrices_and_calls_use_the_same_draws() -> None:
    a, b = random_scores(seed=1), random_scores(seed=2)
    together = resampled_means([a, b], resamples=200)
    assert np.array_equal(together[0], resampled_means([a], resamples=200)[0])
    assert together[0] - together[1] == pytest.approx(resampled_means([a - b], resamples=200)[0], abs=1e-12)
    assert not np.array_equal(together[0], resampled_means([a], resamples=200, seed=1)[0])


def test_the_last_chunk_of_resamples_may_be_smaller() -> None:
    assert resampled_means([random_scores()], resamples=2_300).shape == (1, 2_300)


@pytest.mark.parametrize("scores", [[], [np.zeros((3, 0))], [np.zeros(3)], [np.full((2, 2), np.nan)]])
def test_invalid_scores_are_refused(scores: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="scores must be"):
        resampled_means(scores)


# Differences


def test_pairing_reveals_a_difference_smaller_than_the_spread_of_dialogues() -> None:
    other = random_scores()
    difference = paired_difference(other + 0.002 + 0.001 * random_scores(seed=9, level=0.0), other)
    assert difference.verdict == "higher"
    assert difference.low < 0.002 < difference.high < difference.low + 0.001
    assert mean_estimate(other).high - mean_estimate(other).low > 0.01


def test_the_smallest_p_value_is_one_in_the_number_of_resamples_plus_one() -> None:
    assert paired_difference(random_scores() + 1, random_scores(), resamples=99).p_value == 1 / 100


def test_equal_scores_are_no_difference() -> None:
    d = paired_difference(random_scores(), random_scores())
    assert (d.value, d.low, d.high, d.p_value, d.verdict) == (0, 0, 0, 1.0, NO_DIFFERENCE)


def test_swapping_the_sides_negates_the_difference() -> None:
    a, b = random_scores(seed=1), random_scores(seed=2)
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert (forward.value, forward.low, forward.high) == pytest.approx((-backward.value, -backward.high, -backward.low))
    assert forward.p_value == backward.p_value


def test_scores_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(random_scores(3), random_scores(2))


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
def test_a_verdict_needs_an_interval_without_zero_and_an_adjusted_p_value_below_five_percent(
    value: float, low: float, high: float, adjusted: float, verdict: str
) -> None:
    difference = PairedDifference(value, low, high, 3, 40, p_value=adjusted, adjusted_p_value=adjusted)
    assert difference.verdict == verdict


def test_two_seeds_get_no_verdict() -> None:
    other = random_scores(seeds=2)
    difference = paired_difference(other + 0.1, other)
    assert (difference.verdict, difference.p_value < 0.05) == (TOO_FEW_SEEDS, True)
    assert paired_difference(random_scores() + 0.1, random_scores()).verdict == "higher"


def test_the_spread_of_seeds_is_measured_in_standard_errors_of_dialogues() -> None:
    dialogues = np.random.default_rng(3).normal(0, 1, 50)
    seeds = np.array([[-0.2], [0.1], [0.4]])
    difference = paired_difference(seeds + dialogues, np.zeros((3, 50)))
    assert difference.seed_spread == pytest.approx(0.3 / (dialogues.std(ddof=1) / 50**0.5))
    assert paired_difference(random_scores(seeds=1), np.zeros((1, 40))).seed_spread is None
    assert paired_difference(random_scores(), random_scores()).seed_spread is None


@pytest.mark.parametrize(("ratio", "rate"), FALSE_POSITIVE_RATES.items())
def test_false_positives_are_as_frequent_as_documented(ratio: int, rate: float) -> None:
    rng = np.random.default_rng(ratio)
    trials, dialogues = 2_000, 60
    seeds = rng.normal(0, ratio, (trials, 3, 1))
    differences = seeds + rng.normal(0, dialogues**0.5, (trials, 1, dialogues))
    low, high = np.percentile(resampled_means(list(differences), resamples=500), [2.5, 97.5], axis=1)
    # Three standard errors of a rate in this many trials, and the effect of fewer resamples.
    assert np.mean((low > 0) | (high < 0)) == pytest.approx(rate, abs=3 * (rate / trials) ** 0.5 + 0.01)


# Holm's correction


def test_holm_adjusts_a_worked_example() -> None:
    # Of these four hypotheses the first and the last are rejected at 0.05.
    assert holm_adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_accepts_empty_and_single_families() -> None:
    assert holm_adjusted([]) == []
    assert holm_adjusted([0.03]) == [0.03]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_the_same_hypotheses_as_the_stepwise_procedure(p_values: list[float]) -> None:
    adjusted = holm_adjusted(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for step, n in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if (len(p_values) - step) * p_values[n] > level:
                break
            rejected.add(n)
        assert {n for n, p in enumerate(adjusted) if p <= level} == rejected
    assert all(p <= a <= min(1, len(p_values) * p) for p, a in zip(p_values, adjusted, strict=True))


# Other metrics


def test_a_win_counts_one_and_a_tie_half() -> None:
    assert win_matrix(np.array([[0.3, 0.2, 0.1]]), np.array([[0.1, 0.2, 0.3]])).tolist() == [[1.0, 0.5, 0.0]]


def test_perplexity_gives_every_token_the_same_weight() -> None:
    nats, tokens = np.array([[10.0, 1.0]]), np.array([[10.0, 1.0]])
    assert perplexity_estimate(nats, tokens).value == pytest.approx(math.e)
    estimate = perplexity_estimate(np.array([[20.0, 1.0]]), tokens)
    assert estimate.value == pytest.approx(math.exp(21 / 11))
    # The ends of the interval are resamples of one of the two dialogues only.
    assert (estimate.low, estimate.high) == pytest.approx((math.e, math.exp(2)))


def test_a_difference_in_perplexity_is_paired() -> None:
    tokens = np.full((3, 40), 10.0)
    other = 10 * random_scores(level=3.0)
    difference = perplexity_difference(other - 0.1, other, tokens)
    expected = perplexity_estimate(other - 0.1, tokens).value - perplexity_estimate(other, tokens).value
    assert difference.value == pytest.approx(expected)
    assert difference.verdict == "lower"
    assert perplexity_difference(other, other, tokens).verdict == NO_DIFFERENCE


def test_forgetting_is_the_relative_increase_of_the_loss() -> None:
    base = 10 * random_scores(level=3.0)
    estimate = forgetting_estimate(1.1 * base, base)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.1, 0.1, 0.1))


# The published scores


def final_score(data: str, policy: str) -> PublishedScore:
    score = published_final_score(data, policy)
    assert score is not None
    return score


def test_published_curves_are_complete_and_end_with_the_printed_score() -> None:
    assert len(published_datasets()) == 6
    for data in published_datasets():
        for policy in ("quality", "random", "fifo", "k-center"):
            curve = published_curve(data, policy)
            assert list(curve) == [800, 1600, 2400, 3200, 4000, 4600]
            assert [score.printed for score in curve.values()] == [False] * 5 + [policy == "quality"]
        printed = published_results()["ablation"]["data"][data]["printed"]
        assert published_curve(data, "quality")[4600].value == printed["quality"]
        assert final_score(data, "eoe").value == printed["eoe"]


@pytest.mark.parametrize(
    ("data", "gain_percent"),
    [("alpaca", 38), ("dolly", 41), ("prosocial", 29), ("empathetic", 39), ("openorca", 18), ("meddialog", 40)],
)
def test_the_papers_gains_follow_from_its_scores(data: str, gain_percent: int) -> None:
    best = max(final_score(data, policy).value for policy in ("random", "fifo", "k-center"))
    gain = final_score(data, "quality").value / best - 1
    assert 100 * gain == pytest.approx(gain_percent, abs=1.5)


def test_unpublished_scores_are_none() -> None:
    assert published_final_score("alpaca", "weighted") is None
    assert published_final_score("another", "quality") is None
    assert published_curve("another", "quality") == {}


def test_digitized_scores_are_marked() -> None:
    assert final_score("alpaca", "fifo").text == "0.233 (digitized)"
    assert final_score("alpaca", "quality").text == "0.3736"
