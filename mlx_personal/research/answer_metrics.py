"""All metrics of a model on evaluation dialogues, as a list with one value for each."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from mlx_personal.dialogue import Dialogue, rouge1, rougeL, strip_thoughts, words
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.evaluation.choice import chance_reciprocal_rank, reciprocal_ranks, top1_shares
from mlx_personal.evaluation.comparison import compute_outputs, make_parts
from mlx_personal.evaluation.specificity import specificities
from mlx_personal.models import LanguageModel

# The metrics of answers, and of likelihoods. `chance_rank` is the reciprocal rank that chance reaches.
ANSWER_METRICS: Final = ("rouge1", "rougeL", "words")
CHOICE_METRICS: Final = ("reciprocal_rank", "top1", "chance_rank")
METRICS: Final = (*ANSWER_METRICS, *CHOICE_METRICS, "specificity", "log_likelihood")


def answer_metrics(
    lm: LanguageModel, dialogues: Sequence[Dialogue], config: EvaluationConfig
) -> dict[str, list[float]]:
    """Answer the questions of dialogues, and compare the answers and their likelihoods with the dialogues' own.

    Args:
        lm: The model, with any adapter that is attached to it.
        dialogues: N dialogues with the preferred answers, and with any examples before the questions.
        config: Settings of the comparison. The same settings and preferred answers give the same groups for the choice.

    Returns:
        The values by the names of `METRICS`: of answers and `log_likelihood` (nats a token) one for each dialogue, the
        mean over its turns; of the choice and `specificity` (nats a token) one for each question that has another one.
    """
    parts = make_parts(lm, dialogues, [False] * len(dialogues), config)
    (part,), (outputs,) = parts, compute_outputs(lm, parts, config.max_tokens)
    return {
        **answer_scores(outputs.answers, part.dialogues),
        "reciprocal_rank": reciprocal_ranks(outputs.likelihoods, part.groups),
        "top1": top1_shares(outputs.likelihoods, part.groups),
        "chance_rank": [chance_reciprocal_rank(len(group)) for group in part.groups for _ in group],
        "specificity": specificities(outputs.likelihoods, part.others),
        "log_likelihood": [-loss.nats / max(loss.tokens, 1) for loss in outputs.losses],
    }


def answer_scores(answers: Sequence[Sequence[str]], dialogues: Sequence[Dialogue]) -> dict[str, list[float]]:
    """Return the metrics of answers, the mean over the turns of each dialogue.

    Args:
        answers: For each of N dialogues an answer to each question.
        dialogues: The dialogues with the preferred answers.

    Returns:
        N values by the names of `ANSWER_METRICS`.
    """
    pairs = [
        [(answer, strip_thoughts(turn)) for answer, turn in zip(of_dialogue, dialogue.assistant_turns, strict=True)]
        for of_dialogue, dialogue in zip(answers, dialogues, strict=True)
    ]
    return {
        "rouge1": [statistics.fmean(rouge1(answer, turn) for answer, turn in turns) for turns in pairs],
        "rougeL": [statistics.fmean(rougeL(answer, turn) for answer, turn in turns) for turns in pairs],
        "words": [statistics.fmean(len(words(answer)) for answer, _ in turns) for turns in pairs],
    }
