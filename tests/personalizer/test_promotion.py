"""The promotion rules: which gains count, and what is said about them."""

from __future__ import annotations

import dataclasses

import pytest

from mlx_personal.evaluation import ChoiceChange, Evaluation, MetricChange
from mlx_personal.evaluation.config import PROMOTION_RULES
from mlx_personal.evaluation.promotion_rule import is_better_by


def change(gain: float, low: float, high: float) -> MetricChange:
    return MetricChange(0.2, 0.2 + gain, gain, low, high)


BETTER, CHANCE, WORSE = change(0.1, 0.05, 0.2), change(0.1, 0.0, 0.2), change(-0.1, -0.2, -0.01)
WORSE_BY_CHANCE = change(-0.1, -0.2, 0.0)


def evaluation(likelihood: MetricChange | None, rouge1: MetricChange, mrr: MetricChange | None = None) -> Evaluation:
    choice = None if mrr is None else ChoiceChange(12, 12, mrr, mrr, 0.25, 0.08)
    return Evaluation(12, rouge1, rouge1, (), log_likelihood=likelihood, choice=choice)


@pytest.mark.parametrize(
    ("likelihood", "rouge1", "is_better"),
    [
        (BETTER, BETTER, True),
        (BETTER, WORSE_BY_CHANCE, True),
        (BETTER, WORSE, False),
        (CHANCE, BETTER, False),
        (WORSE, BETTER, False),
        (None, BETTER, False),
        (change(0.1, float("nan"), float("nan")), BETTER, False),
    ],
)
def test_likelihood_must_rise_for_certain_and_rouge_1_not_fall_for_certain(
    likelihood: MetricChange | None, rouge1: MetricChange, is_better: bool
) -> None:
    assert is_better_by("likelihood", evaluation(likelihood, rouge1))[0] is is_better


@pytest.mark.parametrize(
    ("mrr", "rouge1", "is_better"),
    [(BETTER, WORSE_BY_CHANCE, True), (BETTER, WORSE, False), (CHANCE, BETTER, False), (None, BETTER, False)],
)
def test_choice_looks_at_the_rank_among_other_answers(
    mrr: MetricChange | None, rouge1: MetricChange, is_better: bool
) -> None:
    assert is_better_by("choice", evaluation(WORSE, rouge1, mrr))[0] is is_better


@pytest.mark.parametrize(("rouge1", "is_better"), [(CHANCE, True), (WORSE_BY_CHANCE, False), (change(0, 0, 0), False)])
def test_rouge_1_is_the_rule_of_version_0_1(rouge1: MetricChange, is_better: bool) -> None:
    assert is_better_by("rouge1", evaluation(None, rouge1))[0] is is_better


def test_the_reason_has_the_figures() -> None:
    reasons = {
        is_better_by(rule, evaluation(likelihood, rouge1, likelihood))[1]
        for rule, likelihood, rouge1 in [
            ("likelihood", BETTER, CHANCE),
            ("likelihood", CHANCE, BETTER),
            ("likelihood", BETTER, WORSE),
            ("choice", BETTER, CHANCE),
            ("rouge1", BETTER, WORSE),
        ]
    }
    assert reasons == {
        "the preferred answers' likelihood rose (+0.100 nats a token, 95 % interval +0.050 to +0.200), "
        "and ROUGE-1 is not worse",
        "the gain in the preferred answers' likelihood may be chance: +0.100 nats a token, "
        "95 % interval +0.000 to +0.200",
        "the preferred answers' likelihood rose (+0.100 nats a token, 95 % interval +0.050 to +0.200), "
        "but ROUGE-1 fell: 95 % interval -0.200 to -0.010",
        "the preferred answers' rank among other answers rose (+0.100 in mean reciprocal rank, 95 % interval "
        "+0.050 to +0.200), and ROUGE-1 is not worse",
        "ROUGE-1 did not rise: -0.100",
    }


def test_what_was_not_compared_is_named() -> None:
    reason = is_better_by("choice", evaluation(BETTER, BETTER))[1]
    assert reason == "the preferred answers' rank among other answers could not be compared on 12 dialogues"


@pytest.mark.parametrize("rule", PROMOTION_RULES)
@pytest.mark.parametrize(("n", "is_better"), [(1, False), (4, False), (5, True)])
def test_fewer_than_five_dialogues_decide_nothing(rule: str, n: int, is_better: bool) -> None:
    few = dataclasses.replace(evaluation(BETTER, BETTER, BETTER), n=n)
    assert is_better_by(rule, few)[0] is is_better
    if not is_better:
        held_out = "1 dialogue is" if n == 1 else f"{n} dialogues are"
        assert is_better_by(rule, few)[1] == f"only {held_out} held out, too few to decide; at least 5 are needed"


@pytest.mark.parametrize("rule", ["likelihood", "choice"])
def test_a_fall_is_not_called_chance(rule: str) -> None:
    reason = is_better_by(rule, evaluation(WORSE, BETTER, WORSE))[1]
    assert " fell: -0.100 " in reason and "chance" not in reason
    assert "may be chance" in is_better_by(rule, evaluation(WORSE_BY_CHANCE, BETTER, WORSE_BY_CHANCE))[1]
