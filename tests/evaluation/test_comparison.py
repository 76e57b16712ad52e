"""The comparison of two models: all metrics of hand-made outputs, and those of a model with itself."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import mlx_personal  # noqa: F401 - before mlx.core

# isort: split
import mlx.core as mx
import numpy as np
import pytest

from mlx_personal import Dialogue, LanguageModel, load_language_model
from mlx_personal.dialogue import rouge1
from mlx_personal.evaluation import (
    AnswerLoss,
    AnswerStatistic,
    EvaluationConfig,
    EvaluationPart,
    MetricChange,
    ModelOutputs,
    answer_similarities,
    bootstrap_interval,
    compare_answers,
    compare_choice,
    compare_outputs,
    compare_specificity,
    compute_outputs,
    generate_answers,
    make_parts,
    typical_answer,
)
from mlx_personal.progress import ProgressEvent

SOUP = Dialogue.of("What shall I cook?", "A soup of leeks.")
BEANS = Dialogue.of("How long do beans take?", "One hour.")
PLANT = Dialogue.of("How do I plant tomatoes?", "In May, with a stake each.")
CONFIG = EvaluationConfig(max_tokens=8)


def outputs(part: EvaluationPart, answers: Sequence[str], nats: Sequence[float], seed: int) -> ModelOutputs:
    count = len(part.questions)
    likelihoods = np.random.default_rng(seed).normal(size=(count, count))
    return ModelOutputs([[a] for a in answers], [AnswerLoss(n, 2) for n in nats], likelihoods)


def embed(texts: Sequence[str]) -> list[np.ndarray]:
    return [np.array([len(text), text.count("e"), 1.0]) for text in texts]


def test_every_metric_is_computed_from_the_outputs(tiny_model: LanguageModel) -> None:
    (part,) = make_parts(tiny_model, [SOUP, BEANS, PLANT], [False] * 3, CONFIG)
    before = outputs(part, ["Soup.", "One day.", ""], [4.0, 6.0, 8.0], 1)
    after = outputs(part, ["A soup.", "One hour.", "In May."], [2.0, 5.0, 6.0], 2)
    result = compare_outputs([part], [before], [after], "In May.", embed, seed=3)

    texts = compare_answers(before.answers, after.answers, part.dialogues, 3)
    assert (result.n, result.rouge1, result.rougeL) == (3, texts.rouge1, texts.rougeL)
    likelihood = result.log_likelihood
    assert likelihood is not None
    assert (likelihood.before, likelihood.after, likelihood.gain) == pytest.approx((-3.0, -13 / 6, 2.5 / 3))
    assert (likelihood.low, likelihood.high) == bootstrap_interval([1.0, 0.5, 1.0], 3)
    assert [sample.log_likelihood_before for sample in result.samples] == [-2, -3, -4]
    assert [sample.log_likelihood_after for sample in result.samples] == [-1, -2.5, -3]
    assert result.specificity == compare_specificity(before.likelihoods, after.likelihoods, part.others, 3)
    assert result.choice == compare_choice(before.likelihoods, after.likelihoods, part.groups, 3)
    preferred = [[dialogue.answer] for dialogue in part.dialogues]
    similarities = [answer_similarities(model.answers, preferred, embed) or [] for model in (before, after)]
    assert result.similarity == MetricChange.of(similarities[0], similarities[1], 3)
    constant = result.constant_answer
    assert constant is not None and constant.answer == "In May."
    scores = [rouge1("In May.", dialogue.answer) for dialogue in part.dialogues]
    assert (constant.rouge1.before, constant.rouge1.after) == pytest.approx((np.mean(scores), result.rouge1.after))
    assert result.answer_words == AnswerStatistic(1.0, 2.0, 4.0)
    assert result.distinct_2 == AnswerStatistic(1.0, 1.0, 1.0)
    assert "NaN" not in json.dumps(dataclasses.asdict(result))


def test_a_model_compared_with_itself_gains_nothing(tiny_model: LanguageModel) -> None:
    context = Dialogue.from_messages(
        [
            {"role": "user", "content": "Tomatoes?"},
            {"role": "assistant", "content": "In May.", "weight": 0},
            {"role": "user", "content": "How deep?"},
            {"role": "assistant", "content": "A hand deep."},
        ]
    )
    dialogues = [SOUP, context, BEANS, PLANT]
    parts = make_parts(tiny_model, dialogues, [False] * 4, dataclasses.replace(CONFIG, other_questions=2))
    events: list[ProgressEvent] = []
    computed = compute_outputs(tiny_model, parts, CONFIG.max_tokens, events.append)
    assert computed[0].answers == generate_answers(tiny_model, dialogues, CONFIG.max_tokens)
    assert {event.stage for event in events} == {"generation", "likelihood"}
    result = compare_outputs(parts, computed, computed, typical_answer(tiny_model, [SOUP, PLANT], 8))
    specificity, choice = result.specificity, result.choice
    assert specificity is not None and choice is not None
    for change in (result.rouge1, result.log_likelihood, specificity.nats, specificity.share, choice.mrr, choice.top1):
        assert change is not None
        assert (change.gain, change.low, change.high) == (0, 0, 0)
    assert (specificity.n, specificity.other_questions, choice.n, choice.choices) == (4, 2, 4, 4)
    assert specificity.nats.before != 0
    assert result.similarity is None


def test_a_model_that_does_not_read_the_question_is_not_specific_and_chooses_by_chance(
    tiny_model: LanguageModel, tiny_model_folder: Path
) -> None:
    blind = load_language_model(tiny_model_folder)
    for layer in blind.model.layers:
        # Without attention the next token depends on the last one alone.
        layer.self_attn.o_proj.weight = mx.zeros_like(layer.self_attn.o_proj.weight)
    dialogues = [SOUP, BEANS, PLANT, *(Dialogue.of(f"Dish {i}?", f"Cook {'soup ' * i}") for i in range(1, 6))]
    parts = make_parts(tiny_model, dialogues, [False] * 8, dataclasses.replace(CONFIG, choices=5, max_tokens=40))
    result = compare_outputs(parts, compute_outputs(tiny_model, parts, 8), compute_outputs(blind, parts, 8))
    specificity, choice = result.specificity, result.choice
    assert specificity is not None and choice is not None
    assert abs(specificity.nats.before) > 1e-2
    assert specificity.nats.after == pytest.approx(0, abs=1e-5)
    assert (choice.n, choice.choices) == (8, 4)
    assert choice.mrr.after == pytest.approx(choice.chance_mrr) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert choice.top1.after == pytest.approx(choice.chance_top1) == 1 / 4


def test_inferred_dialogues_are_compared_apart(tiny_model: LanguageModel) -> None:
    dialogues, inferred = [SOUP, BEANS, PLANT], [False, True, False]
    parts = make_parts(tiny_model, dialogues, inferred, CONFIG)
    assert [(part.dialogues, part.is_inferred) for part in parts] == [((SOUP, PLANT), False), ((BEANS,), True)]
    before = [outputs(parts[0], ["a", "c"], [2, 2], 1), outputs(parts[1], ["b"], [2], 1)]
    after = [outputs(parts[0], ["d", "In May."], [1, 1], 2), outputs(parts[1], ["One hour."], [3], 2)]
    result = compare_outputs(parts, before, after)
    assert result.inferred is not None
    own = compare_outputs(parts[:1], before[:1], after[:1])
    others = compare_outputs(parts[1:], before[1:], after[1:])
    assert result == dataclasses.replace(own, inferred=others)
    assert (result.is_inferred, others.is_inferred, others.rouge1.gain) == (False, True, 1)
    assert others.log_likelihood is not None and others.log_likelihood.gain == -0.5


def test_without_dialogues_that_the_user_judged_the_others_are_compared(tiny_model: LanguageModel) -> None:
    (part,) = make_parts(tiny_model, [SOUP], [True], CONFIG)
    result = compare_outputs([part], [outputs(part, ["a"], [2], 1)], [outputs(part, ["b"], [2], 1)])
    assert result.is_inferred and result.inferred is None


def test_one_dialogue_and_equal_dialogues_have_no_metric_that_needs_others(tiny_model: LanguageModel) -> None:
    for dialogues in ([SOUP], [SOUP, SOUP, SOUP]):
        parts = make_parts(tiny_model, dialogues, [False] * len(dialogues), CONFIG)
        computed = compute_outputs(tiny_model, parts, 8)
        result = compare_outputs(parts, computed, computed, "A soup.", embed)
        assert (result.specificity, result.choice, result.similarity) == (None, None, None)
        assert result.log_likelihood is not None and result.constant_answer is not None
    equal_questions = [SOUP, Dialogue.of(SOUP.question, "Beans.")]
    parts = make_parts(tiny_model, equal_questions, [False, False], CONFIG)
    assert (parts[0].groups, parts[0].others) == (((1, 0),), ((), ()))


def test_metrics_that_are_turned_off_compute_nothing(tiny_model: LanguageModel) -> None:
    config = dataclasses.replace(CONFIG, choices=0, other_questions=0)
    parts = make_parts(tiny_model, [SOUP, BEANS], [False, False], config)
    (computed,) = compute_outputs(tiny_model, parts, 8)
    assert np.isnan(computed.likelihoods).all()
    result = compare_outputs(parts, [computed], [computed])
    assert (result.specificity, result.choice) == (None, None)


def test_both_models_are_compared_on_pairs_that_the_seed_draws(tiny_model: LanguageModel) -> None:
    dialogues = [Dialogue.of(f"Dish number {i}?", f"Soup {i}.") for i in range(9)]
    drawn = [make_parts(tiny_model, dialogues, [False] * 9, dataclasses.replace(CONFIG, seed=s)) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_likelihoods_that_are_not_finite_are_not_reported(tiny_model: LanguageModel) -> None:
    (part,) = make_parts(tiny_model, [SOUP, BEANS, PLANT], [False] * 3, CONFIG)
    before, after = (outputs(part, ["a", "b", "c"], [2, 3, 4], seed) for seed in (1, 2))
    damaged = dataclasses.replace(
        after, losses=[AnswerLoss(math.nan, 2), *after.losses[1:]], likelihoods=np.full((3, 3), math.nan)
    )
    result = compare_outputs([part], [before], [damaged])
    assert (result.log_likelihood, result.specificity) == (None, None)
    assert result.samples[0].log_likelihood_after is None
    assert result.choice is not None and result.choice.top1.after <= result.choice.chance_top1
    assert "NaN" not in json.dumps(dataclasses.asdict(result))


def test_no_dialogues_are_refused() -> None:
    with pytest.raises(ValueError, match="no dialogue"):
        compare_outputs([], [], [])


# One answer for all


def test_one_answer_for_all_is_chosen_among_the_given_dialogues_and_truncated(tiny_model: LanguageModel) -> None:
    dialogues = [Dialogue.of("a", "see a vet"), Dialogue.of("b", "see a doctor now"), Dialogue.of("c", "see a doctor")]
    assert typical_answer(tiny_model, dialogues, 100) == "see a doctor"
    tokens = tiny_model.tokenize("see a doctor")
    assert typical_answer(tiny_model, dialogues[2:], 2) == tiny_model.tokenizer.decode(tokens[:2])
    assert typical_answer(tiny_model, [Dialogue.of("a", "<think>hm</think>")], 8) is None
    assert typical_answer(tiny_model, [], 8) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"choices": 1}, "choices is 1; it must be 0 or lie in 2..100"),
        ({"choices": 101}, "choices is 101"),
        ({"other_questions": -1}, "other_questions is -1; it must lie in 0..100"),
        ({"promotion": "bleu"}, "promotion is 'bleu'; it must be likelihood, choice or rouge1"),
        ({"promotion": "choice", "choices": 0}, "choices is 0, and promotion is 'choice'"),
    ],
)
def test_a_setting_of_the_comparison_out_of_range_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(**settings)  # type: ignore[arg-type]
