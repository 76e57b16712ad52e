"""The likelihood of answers after their own and other questions, against plain forward passes in float64."""

from __future__ import annotations

import mlx_personal  # noqa: F401 - before mlx.core

# isort: split
import mlx.core as mx
import numpy as np
import pytest

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.evaluation import (
    answer_likelihoods,
    answer_losses,
    draw_other_questions,
    group_by_length,
    make_questions,
    question_pairs,
)
from mlx_personal.progress import ProgressEvent

CONTEXT = Dialogue.from_messages(
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "My cat does not eat."},
        {"role": "assistant", "content": "Take it to the vet.", "weight": 0},
        {"role": "user", "content": "And water?"},
        {"role": "assistant", "content": "<think>hm</think>Fresh water, often."},
    ]
)
SOUP = Dialogue.of("What shall I cook tonight?", "A soup of leeks and potatoes, with bread.")
PLANT = Dialogue.of("How do I plant tomatoes?", "In May.")
THOUGHTS = Dialogue.of("Hm?", "<think>nothing</think>")


def plain_log_likelihood(lm: LanguageModel, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    logits = np.array(lm.model(mx.array([[*prompt, *answer][:-1]]))[0].astype(mx.float32), np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(np.mean([logs[len(prompt) - 1 + place, token] for place, token in enumerate(answer)]))


def test_likelihoods_are_those_of_plain_forward_passes(tiny_model: LanguageModel) -> None:
    questions = make_questions(tiny_model, [CONTEXT, SOUP, PLANT])
    events: list[ProgressEvent] = []
    pairs = [(0, 0), (1, 0), (1, 2), (2, 1), (1, 1)]
    table = answer_likelihoods(tiny_model, questions, pairs, events.append)
    for i, j in np.ndindex(3, 3):
        if (i, j) in pairs:
            expected = plain_log_likelihood(tiny_model, questions[i].prompt, questions[j].answer)
            assert table[i, j] == pytest.approx(expected, rel=1e-4)
        else:
            assert np.isnan(table[i, j])
    assert [(event.stage, event.done, event.total) for event in events] == [("likelihood", n, 3) for n in (1, 2, 3)]


def test_the_own_likelihood_of_a_single_answer_is_that_of_its_loss(tiny_model: LanguageModel) -> None:
    dialogues = [CONTEXT, SOUP, PLANT]
    table = answer_likelihoods(tiny_model, make_questions(tiny_model, dialogues), [(i, i) for i in range(3)])
    losses = answer_losses(tiny_model, dialogues)
    assert table.diagonal() == pytest.approx([-loss.nats / loss.tokens for loss in losses], rel=1e-4)


def test_a_question_has_its_whole_context(tiny_model: LanguageModel) -> None:
    (question,) = make_questions(tiny_model, [CONTEXT])
    messages = CONTEXT.to_messages()[:4]
    assert question.prompt == tuple(tiny_model.tokenize_prompt(messages))
    assert question.answer == tuple(tiny_model.chat_template.tokenize_answer("Fresh water, often."))


def test_long_prompts_and_answers_fit_into_the_context(tiny_model: LanguageModel) -> None:
    long = Dialogue.of("cook " * 400, "soup " * 400)
    (question,) = make_questions(tiny_model, [long], max_answer_tokens=40)
    assert len(question.answer) == 40
    assert len(question.prompt) == tiny_model.context_length - 40
    assert np.isfinite(answer_likelihoods(tiny_model, [question], [(0, 0)])).all()


def test_of_many_dialogues_some_are_drawn_by_the_seed(tiny_model: LanguageModel) -> None:
    dialogues = [Dialogue.of(f"Soup number {i}?", f"Yes, {i}.") for i in range(12)]
    everything = make_questions(tiny_model, dialogues)
    drawn = make_questions(tiny_model, dialogues, max_questions=5, seed=1)
    assert len(drawn) == 5
    positions = [everything.index(question) for question in drawn]
    assert positions == sorted(positions)
    assert drawn == make_questions(tiny_model, dialogues, max_questions=5, seed=1)
    assert drawn != make_questions(tiny_model, dialogues, max_questions=5, seed=2)


def test_an_answer_of_thoughts_only_is_left_out(tiny_model: LanguageModel) -> None:
    assert make_questions(tiny_model, [THOUGHTS, SOUP]) == make_questions(tiny_model, [SOUP])
    assert make_questions(tiny_model, [THOUGHTS]) == make_questions(tiny_model, []) == []
    assert answer_likelihoods(tiny_model, [], []).shape == (0, 0)


def test_only_the_needed_pairs_are_computed() -> None:
    assert question_pairs([[0, 2], [1]]) == {(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)}
    assert question_pairs(others=[[2], [], [0, 1]]) == {(2, 0), (0, 0), (0, 2), (1, 2), (2, 2)}
    assert question_pairs() == set()
    groups, others = group_by_length([[1] * n for n in range(1, 41)], 20), draw_other_questions(range(40), 4)
    assert len(question_pairs(groups, others)) <= 40 * (20 + 4)
