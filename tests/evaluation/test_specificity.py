"""Specificity: differences of hand-made likelihoods, and 0 for a model that ignores the question."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.evaluation import (
    bootstrap_interval,
    compare_specificity,
    draw_other_questions,
    group_by_length,
    own_question_shares,
    specificities,
)

# Row: question, column: answer.
TABLE = np.array([[-1.0, -3.0, -2.0], [-2.0, -2.5, -4.0], [-4.0, -2.0, -2.0]])
OTHERS = [[1, 2], [0, 2], [1]]


def test_an_answer_is_compared_after_its_own_and_after_other_questions() -> None:
    assert specificities(TABLE, OTHERS) == pytest.approx([(1 + 3) / 2, (0.5 - 0.5) / 2, 2])
    assert own_question_shares(TABLE, OTHERS) == [1.0, 0.5, 1.0]


def test_equal_likelihoods_count_half() -> None:
    assert own_question_shares(np.array([[-1.0, 0], [-1.0, 0]]), [[1], [0]]) == [0.5, 0.5]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 7), st.integers(1, 8), st.integers(0, 5))
def test_a_model_that_ignores_the_question_is_not_specific(count: int, others: int, seed: int) -> None:
    by_answer = np.random.default_rng(seed).normal(size=count)
    table = np.tile(by_answer, (count, 1))
    drawn = draw_other_questions(range(count), others, seed)
    assert specificities(table, drawn) == [0.0] * count
    assert own_question_shares(table, drawn) == [0.5] * count


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=9), st.integers(0, 5), st.integers(0, 3))
def test_other_questions_are_drawn_once_each_and_differ(prompts: list[int], count: int, seed: int) -> None:
    drawn = draw_other_questions(prompts, count, seed)
    assert drawn == draw_other_questions(prompts, count, seed)
    for prompt, others in zip(prompts, drawn, strict=True):
        assert len(set(others)) == len(others) == min(count, sum(other != prompt for other in prompts))
        assert all(prompts[other] != prompt for other in others)
        assert all(type(other) is int for other in others)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 5), st.integers(2, 5))
def test_other_questions_are_those_of_the_choice_if_it_has_any(prompts: list[int], count: int, size: int) -> None:
    groups = group_by_length([[1] * (number + 1) for number in range(len(prompts))], size)
    drawn = draw_other_questions(prompts, count, 0, groups)
    for group in groups:
        for number in group:
            in_group = {other for other in group if prompts[other] != prompts[number]}
            others = set(drawn[number])
            if in_group:
                assert others <= in_group and len(others) == min(count, len(in_group))
            else:
                assert len(others) == min(count, sum(other != prompts[number] for other in prompts))


def test_other_questions_depend_on_the_seed() -> None:
    assert len({str(draw_other_questions(range(30), 3, seed)) for seed in range(4)}) == 4


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(0, 100))
def test_shares_lie_within_0_and_1_and_agree_with_the_sign_of_a_single_gain(count: int, seed: int) -> None:
    table = np.random.default_rng(seed).normal(size=(count, count))
    others = draw_other_questions(range(count), 1, seed)
    gains, shares = specificities(table, others), own_question_shares(table, others)
    assert shares == [float(gain > 0) for gain in gains]


def test_two_models_are_compared_on_the_same_pairs() -> None:
    better = TABLE + np.diag([0.0, 1.0, 2.0])
    change = compare_specificity(TABLE, better, OTHERS, seed=4)
    assert change is not None
    assert (change.n, change.other_questions) == (3, 2)
    assert (change.nats.before, change.nats.after) == pytest.approx((4 / 3, 4 / 3 + 1))
    assert change.before_interval == bootstrap_interval(specificities(TABLE, OTHERS), 4)
    assert change.after_interval == bootstrap_interval(specificities(better, OTHERS), 4)
    gains = [0.0, 1.0, 2.0]
    assert (change.nats.low, change.nats.high) == pytest.approx(bootstrap_interval(gains, 4))
    assert (change.share.before, change.share.after) == pytest.approx((2.5 / 3, 1.0))


@pytest.mark.parametrize(("prompts", "count"), [([], 4), (["a"], 4), (["a", "a", "a"], 4), (["a", "b"], 0)])
def test_without_another_question_there_is_no_specificity(prompts: list[str], count: int) -> None:
    others = draw_other_questions(prompts, count)
    assert not list(itertools.chain.from_iterable(others))
    table: Any = np.zeros((len(prompts), len(prompts)))
    assert specificities(table, others) == []
    assert compare_specificity(table, table, others) is None
