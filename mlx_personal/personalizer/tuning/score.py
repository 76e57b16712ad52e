"""The score of a candidate on the validation part: the metric of the rule by which adapters are promoted."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Final

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.evaluation import (
    EvaluationConfig,
    answer_likelihoods,
    answer_losses,
    compare_answers,
    generate_answers,
    group_by_length,
    make_questions,
    question_pairs,
    reciprocal_ranks,
)
from mlx_personal.evaluation.questions import Question
from mlx_personal.finetune.data.samples import make_samples
from mlx_personal.models import LanguageModel
from mlx_personal.progress import Progress

# Generating a token takes about as long as scoring four, see the table of costs in docs/concepts/evaluation.md.
_GENERATION_FACTOR: Final = 4


def validation_score(
    lm: LanguageModel, dialogues: Sequence[Dialogue], config: EvaluationConfig, on_progress: Progress | None = None
) -> float:
    """Return the mean of the metric of `config.promotion`, which is higher for a better model.

    Args:
        lm: The model, with the adapter that is scored.
        dialogues: The dialogues as they are asked, with the preferred answers.
        config: Settings of the evaluation.
        on_progress: Receives an event for each question, where the metric takes long.

    Returns:
        The log-likelihood in nats a token, the reciprocal rank among other answers, or ROUGE-1.

    Raises:
        UserError: If there is no answer to score, or no other one to choose from.
    """
    if config.promotion == "choice":
        questions, groups = _choices(lm, dialogues, config)
        if not groups:
            raise UserError("the validation part has no two different answers to choose from")
        likelihoods = answer_likelihoods(lm, questions, question_pairs(groups), on_progress)
        return statistics.fmean(reciprocal_ranks(likelihoods, groups))
    if config.promotion == "rouge1":
        answers = generate_answers(lm, dialogues, config.max_tokens, on_progress)
        return compare_answers(answers, answers, dialogues).rouge1.after
    losses = [loss for loss in answer_losses(lm, dialogues) if loss.tokens]
    if not losses:
        raise UserError("no dialogue of the validation part has an answer")
    return statistics.fmean(-loss.nats / loss.tokens for loss in losses)


def scored_tokens(lm: LanguageModel, dialogues: Sequence[Dialogue], config: EvaluationConfig) -> int:
    """Return how many tokens `validation_score` computes; a generated token counts as several.

    Args:
        lm: The model.
        dialogues: As for `validation_score`.
        config: As for `validation_score`.
    """
    if config.promotion == "choice":
        questions, groups = _choices(lm, dialogues, config)
        answers = [sum(len(questions[index].answer) for index in group) for group in groups]
        prompts = [len(questions[index].prompt) for index in itertools.chain.from_iterable(groups)]
        return sum(prompts) + sum(len(group) * tokens for group, tokens in zip(groups, answers, strict=True))
    if config.promotion == "rouge1":
        contexts = [context for dialogue in dialogues for context, _ in dialogue.exchanges()]
        prompts = [len(lm.tokenize_prompt(context)) for context in contexts]
        return sum(prompts) + _GENERATION_FACTOR * config.max_tokens * len(contexts)
    return sum(len(sample) for sample in make_samples(lm, dialogues, lm.context_length).samples)


def _choices(
    lm: LanguageModel, dialogues: Sequence[Dialogue], config: EvaluationConfig
) -> tuple[list[Question], list[list[int]]]:
    """Return the questions and the groups of those that have each other's answers to choose from."""
    questions = make_questions(lm, dialogues, config.max_tokens, seed=config.seed)
    return questions, group_by_length([question.answer for question in questions], config.choices)
