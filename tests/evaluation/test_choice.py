"""Choice of n: ranks in hand-made tables, and exactly the chance level for a model that ignores the question."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.evaluation import compare_choice, group_by_length, reciprocal_ranks, top1_shares
from mlx_personal.evaluation.choice import chance_reciprocal_rank

ANSWERS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), max_size=12)
# Row: question, column: answer.
TABLE = np.array([[-1.0, -3.0, -2.0, 0], [-2.0, -2.5, -4.0, 0], [-1.0, -1.0, -2.0, 0], [0, 0, 0, -9.0]])


def test_the_own_answer_is_ranked_among_those_of_its_group() -> None:
    assert reciprocal_ranks(TABLE, [[0, 1, 2]]) == [1, 1 / 2, 1 / 3]
    assert top1_shares(TABLE, [[0, 1, 2]]) == [1, 0, 0]
    assert reciprocal_ranks(TABLE, [[2, 1], [0, 3]]) == [1 / 2, 1, 1 / 2, 1 / 2]


def test_equally_likely_answers_share_their_ranks() -> None:
    table = np.array([[-1.0, -1.0, -2.0], [-3.0, -1.0, -1.0], [-2.0, -2.0, -2.0]])
    assert reciprocal_ranks(table, [[0, 1, 2]]) == pytest.approx([(1 + 1 / 2) / 2, 3 / 4, (1 + 1 / 2 + 1 / 3) / 3])
    assert top1_shares(table, [[0, 1, 2]]) == pytest.approx([1 / 2, 1 / 2, 1 / 3])


def test_a_likelihood_that_is_not_a_number_never_wins() -> None:
    table = np.array([[np.nan, -1.0], [-1.0, np.nan]])
    assert (reciprocal_ranks(table, [[0, 1]]), top1_shares(table, [[0, 1]])) == ([1 / 2, 1 / 2], [0, 0])


@settings(max_examples=30, deadline=None)  # each example is a bootstrap of 10,000 resamples
@given(ANSWERS, st.integers(2, 5), st.booleans(), st.integers(0, 5))
def test_a_model_that_ignores_the_question_scores_exactly_the_chance_level(
    answers: list[list[int]], size: int, has_ties: bool, seed: int
) -> None:
    by_answer = np.random.default_rng(seed).normal(size=len(answers))
    table = np.tile(by_answer.round() if has_ties else by_answer, (len(answers), 1))
    choice = compare_choice(table, table, group_by_length(answers, size), seed)
    if choice is None:
        assert len(set(map(tuple, answers))) < 2
        return
    assert choice.n == len(set(map(tuple, answers)))
    assert choice.mrr.after == pytest.approx(choice.chance_mrr)
    assert choice.top1.after == pytest.approx(choice.chance_top1)
    assert (choice.mrr.gain, choice.top1.gain) == (0, 0)


def test_the_chance_level_is_the_mean_over_all_orders() -> None:
    for size in (1, 2, 3, 4):
        orders = list(itertools.permutations(range(size)))
        assert chance_reciprocal_rank(size) == pytest.approx(statistics.fmean(1 / (o.index(0) + 1) for o in orders))


@settings(max_examples=60, deadline=None)
@given(ANSWERS, st.integers(2, 5))
def test_groups_have_answers_of_like_length_and_like_sizes(answers: list[list[int]], size: int) -> None:
    groups = group_by_length(answers, size)
    used = list(itertools.chain.from_iterable(groups))
    lengths = [len(answers[index]) for index in used]
    assert lengths == sorted(lengths)
    assert len({tuple(answers[index]) for index in used}) == len(used)
    if groups:
        assert {tuple(answers[index]) for index in used} == set(map(tuple, answers))
        assert max(map(len, groups)) <= size
        assert max(map(len, groups)) - min(map(len, groups)) <= 1
        assert len(groups) == -(-len(used) // size)
    assert all(answers.index(answers[index]) == index for index in used), "the first of equal answers"


@settings(max_examples=20, deadline=None)
@given(ANSWERS, st.integers(2, 5), st.integers(0, 50))
def test_scores_lie_within_0_and_1(answers: list[list[int]], size: int, seed: int) -> None:
    before, after = np.random.default_rng(seed).normal(size=(2, len(answers), len(answers))).round(1)
    groups = group_by_length(answers, size)
    choice = compare_choice(before, after, groups, seed)
    if choice is not None:
        assert 0 <= choice.top1.after <= choice.mrr.after <= 1
        assert 0 < choice.chance_top1 <= choice.chance_mrr < 1
        assert choice.choices == max(map(len, groups)) <= size
        assert choice.mrr.low <= choice.mrr.gain + 1e-9 and choice.mrr.gain <= choice.mrr.high + 1e-9


@pytest.mark.parametrize("answers", [[], [[5, 2]], [[5, 2], [5, 2], [5, 2]]])
def test_without_two_different_answers_there_is_no_choice(answers: list[list[int]]) -> None:
    assert group_by_length(answers, 20) == []
    table = np.zeros((len(answers), len(answers)))
    assert compare_choice(table, table, []) is None


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        group_by_length([[1], [2]], 1)
