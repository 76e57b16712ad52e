"""All metrics of a model on evaluation dialogues."""

from __future__ import annotations

import pytest

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.dialogue import rouge1
from mlx_personal.evaluation import EvaluationConfig, answer_losses, generate_answers
from mlx_personal.research.answer_metrics import METRICS, answer_metrics, answer_scores

DIALOGUES = [Dialogue.of(f"About {name}?", f"I know {name} well.") for name in ("Ada", "Ben", "Cleo", "Dora")]


def test_each_metric_has_a_value_for_each_dialogue(tiny_model: LanguageModel) -> None:
    values = answer_metrics(tiny_model, DIALOGUES, EvaluationConfig(max_tokens=40, choices=4))
    assert set(values) == set(METRICS)
    assert {name: len(of_metric) for name, of_metric in values.items()} == dict.fromkeys(METRICS, 4)
    answers = generate_answers(tiny_model, DIALOGUES, 40)
    assert values["rouge1"] == [rouge1(answer[0], d.answer) for answer, d in zip(answers, DIALOGUES, strict=True)]
    losses = answer_losses(tiny_model, DIALOGUES)
    assert values["log_likelihood"] == pytest.approx([-loss.nats / loss.tokens for loss in losses])
    assert values["chance_rank"] == pytest.approx([(1 + 1 / 2 + 1 / 3 + 1 / 4) / 4] * 4)


def test_the_scores_of_a_dialogue_are_the_means_over_its_turns_without_thoughts() -> None:
    roles = ("user", "assistant", "user", "assistant")
    turns = ("One?", "<think>Hm.</think>A red kite.", "Two?", "No.")
    dialogue = Dialogue.from_messages([{"role": r, "content": t} for r, t in zip(roles, turns, strict=True)])
    scores = answer_scores([["A red kite", "Yes indeed"]], [dialogue])
    assert scores == {"rouge1": [0.5], "rougeL": [0.5], "words": [2.5]}
