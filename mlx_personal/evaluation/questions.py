"""Questions and their preferred answers as token ids, and how likely an answer is after its own and other questions.

From these likelihoods `specificity` and `choice` are computed, which an answer that suits every question cannot win.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlx_personal.dialogue import Dialogue
from mlx_personal.models import LanguageModel
from mlx_personal.models.likelihood import log_likelihoods
from mlx_personal.progress import Progress, ProgressEvent

# Of more held-out dialogues some are drawn, since each one takes `choices` + `other_questions` answers to compute.
MAX_QUESTIONS: Final = 50


@dataclass(frozen=True)
class Question:
    """The last question of a dialogue, after everything that precedes it, and its preferred answer.

    Attributes:
        prompt: Token ids of the prompt.
        answer: Token ids of the answer, with its end token unless it was truncated.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def make_questions(
    lm: LanguageModel,
    dialogues: Sequence[Dialogue],
    max_answer_tokens: int = 256,
    max_questions: int = MAX_QUESTIONS,
    seed: int = 0,
) -> list[Question]:
    """Return the last question of each dialogue; of many dialogues, of some that are drawn.

    Args:
        lm: The model whose tokenizer and chat template are used.
        dialogues: The dialogues with the preferred answers. Those whose last answer consists of thoughts only are left
            out.
        max_answer_tokens: Maximum number of tokens of an answer; a longer one is truncated at its end.
        max_questions: Maximum number of questions.
        seed: Random seed of the draw.

    Returns:
        The questions, in the order of the dialogues.
    """
    with_answers = [exchange for dialogue in dialogues if (exchange := _last_exchange(dialogue)) is not None]
    if len(with_answers) > max_questions:
        drawn = np.random.default_rng(seed).choice(len(with_answers), max_questions, replace=False)
        with_answers = [with_answers[i] for i in sorted(drawn)]
    return [
        Question(
            tuple(lm.truncate_prompt(lm.tokenize_prompt(context), max_answer_tokens)),
            tuple(lm.chat_template.tokenize_answer(answer)[:max_answer_tokens]),
        )
        for context, answer in with_answers
    ]


def answer_likelihoods(
    lm: LanguageModel,
    questions: Sequence[Question],
    pairs: Iterable[tuple[int, int]],
    on_progress: Progress | None = None,
) -> np.ndarray:
    """Return the log-likelihood of answers after questions, for some of all pairs.

    A prompt is processed once for all its answers.

    Args:
        lm: The model, with any adapter that is attached to it.
        questions: N questions with their answers.
        pairs: Indices of a question and of the question whose answer is computed after it.
        on_progress: Receives an event of stage `likelihood` for each question.

    Returns:
        Log-likelihoods in nats a token, float64 [N, N]: in row i and column j that of answer j after question i; NaN
        for all other pairs.
    """
    answers_of: dict[int, set[int]] = {}
    for question, answer in pairs:
        answers_of.setdefault(question, set()).add(answer)
    likelihoods = np.full((len(questions), len(questions)), np.nan)
    for done, (question, indices) in enumerate(sorted(answers_of.items()), start=1):
        columns = sorted(indices)
        answers = [list(questions[column].answer) for column in columns]
        nats = log_likelihoods(lm.model, [list(questions[question].prompt)], answers)[0]
        likelihoods[question, columns] = nats / [len(answer) for answer in answers]
        if on_progress is not None:
            on_progress(ProgressEvent("likelihood", done, len(answers_of)))
    return likelihoods


def question_pairs(
    groups: Iterable[Collection[int]] = (), others: Sequence[Collection[int]] = ()
) -> set[tuple[int, int]]:
    """Return the pairs that `answer_likelihoods` has to compute.

    Args:
        groups: Groups of `choice.group_by_length`: each question of a group with each answer of it.
        others: Result of `specificity.draw_other_questions`: the own and the other questions of each answer.
    """
    pairs = {(question, answer) for group in groups for question in group for answer in group}
    for answer, questions in enumerate(others):
        if questions:
            pairs.add((answer, answer))
            pairs.update((question, answer) for question in questions)
    return pairs


def _last_exchange(dialogue: Dialogue) -> tuple[list[dict[str, str]], str] | None:
    """Return all messages before the last answer, and that answer; None if an answer consists of thoughts only."""
    try:
        return dialogue.without_thoughts().exchanges()[-1]
    except ValueError:
        return None
