"""The score of tuning: the metric of the promotion rule, and how many tokens it computes."""

from __future__ import annotations

import pytest

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.errors import UserError
from mlx_personal.evaluation import EvaluationConfig, compare_outputs, compute_outputs, make_parts
from mlx_personal.finetune.data.samples import make_samples
from mlx_personal.personalizer.tuning.score import scored_tokens, validation_score

ASKED = [Dialogue.of(f"Where is {place}?", answer) for place, answer in (("Rome", "Here."), ("Oslo", "Up there, far."))]


def test_the_score_is_the_metric_of_the_rule(tiny_model: LanguageModel) -> None:
    def score(rule: str) -> float:
        return validation_score(tiny_model, ASKED, EvaluationConfig(promotion=rule, max_tokens=8))

    parts = make_parts(tiny_model, ASKED, [False, False], EvaluationConfig(max_tokens=8))
    outputs = compute_outputs(tiny_model, parts, 8)
    evaluation = compare_outputs(parts, outputs, outputs)
    assert evaluation.choice is not None and evaluation.log_likelihood is not None
    assert score("likelihood") == pytest.approx(evaluation.log_likelihood.after)
    assert score("choice") == pytest.approx(evaluation.choice.mrr.after)
    assert score("rouge1") == pytest.approx(evaluation.rouge1.after)


def test_the_tokens_of_each_score_are_estimated(tiny_model: LanguageModel) -> None:
    def tokens(rule: str) -> int:
        return scored_tokens(tiny_model, ASKED, EvaluationConfig(promotion=rule, max_tokens=100))

    prompts = [len(tiny_model.tokenize_prompt([{"role": "user", "content": d.question}])) for d in ASKED]
    whole = [len(sample) for sample in make_samples(tiny_model, ASKED, 256).samples]
    answers = [a - b for a, b in zip(whole, prompts, strict=True)]
    assert tokens("likelihood") == sum(whole)
    # Each of the two answers after each of the two prompts, with end tokens that a sample may not have.
    assert sum(prompts) + 2 * sum(answers) <= tokens("choice") <= sum(prompts) + 2 * sum(answers) + 4
    assert tokens("rouge1") == sum(prompts) + 4 * 100 * 2


@pytest.mark.parametrize(
    ("rule", "dialogues", "message"),
    [
        ("choice", [ASKED[0], Dialogue.of("Where is it?", "Here.")], "no two different answers"),
        ("likelihood", [], "no dialogue of the validation part has an answer"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    tiny_model: LanguageModel, rule: str, dialogues: list[Dialogue], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        validation_score(tiny_model, dialogues, EvaluationConfig(promotion=rule))
