"""Compare two models on held-out dialogues by everything that is measured: likelihoods and generated answers.

`make_parts` decides once what is computed, the same for all models; `compute_outputs` computes it with one model;
`compare_outputs` compares two. Most of the time goes into the likelihoods of answers after several questions, so they
can be left out (`without_questions`) and be computed later (`with_likelihoods`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlx_personal.dialogue import Dialogue, strip_thoughts
from mlx_personal.evaluation.answer_loss import AnswerLoss, answer_losses
from mlx_personal.evaluation.answer_similarity import Embed, answer_similarities
from mlx_personal.evaluation.choice import compare_choice, group_by_length
from mlx_personal.evaluation.config import EvaluationConfig
from mlx_personal.evaluation.constant_answer import choose_constant_answer
from mlx_personal.evaluation.evaluate import ConstantAnswer, Evaluation, compare_answers, generate_answers
from mlx_personal.evaluation.intervals import MetricChange
from mlx_personal.evaluation.questions import Question, answer_likelihoods, make_questions, question_pairs
from mlx_personal.evaluation.specificity import compare_specificity, draw_other_questions
from mlx_personal.models import LanguageModel
from mlx_personal.progress import Progress

# Number of training answers, the latest ones, among which one answer for all is chosen: n answers take n² comparisons.
_MAX_CONSTANT_CANDIDATES: Final = 200


@dataclass(frozen=True)
class EvaluationPart:
    """Held-out dialogues that are compared together, and what is computed of them.

    Attributes:
        dialogues: The dialogues with their preferred answers.
        is_inferred: Whether the preferred answers were inferred from exports, and not judged by the user.
        questions: The questions whose likelihoods are computed.
        groups: Groups of questions, each of which has the answers of its group to choose from.
        others: For each question the other ones after which its answer is computed too.
    """

    dialogues: tuple[Dialogue, ...]
    is_inferred: bool
    questions: tuple[Question, ...]
    groups: tuple[tuple[int, ...], ...]
    others: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ModelOutputs:
    """What a model computes of the dialogues of a part.

    Attributes:
        answers: For each dialogue its greedy answer to each question.
        losses: For each dialogue the loss of the preferred answers.
        likelihoods: Log-likelihoods of answers after questions, see `answer_likelihoods`.
    """

    answers: Sequence[Sequence[str]]
    losses: Sequence[AnswerLoss]
    likelihoods: np.ndarray


def make_parts(
    lm: LanguageModel, dialogues: Sequence[Dialogue], inferred: Sequence[bool], config: EvaluationConfig
) -> list[EvaluationPart]:
    """Divide held-out dialogues into those that the user judged and all others, and draw the pairs to compute.

    Args:
        lm: The model whose tokenizer and chat template are used.
        dialogues: The dialogues with the preferred answers, and with any context before the questions.
        inferred: For each dialogue, whether its preferred answers were inferred from an export.
        config: Settings of the evaluation.

    Returns:
        The parts that have dialogues, that of the user's own verdicts first.
    """
    parts = []
    for is_inferred in (False, True):
        part = [dialogue for dialogue, flag in zip(dialogues, inferred, strict=True) if flag == is_inferred]
        if not part:
            continue
        questions = make_questions(lm, part, config.max_tokens, seed=config.seed)
        groups = group_by_length([q.answer for q in questions], config.choices) if config.choices else []
        others = draw_other_questions([q.prompt for q in questions], config.other_questions, config.seed, groups)
        parts.append(
            EvaluationPart(
                tuple(part), is_inferred, tuple(questions), tuple(map(tuple, groups)), tuple(map(tuple, others))
            )
        )
    return parts


def compute_outputs(
    lm: LanguageModel, parts: Sequence[EvaluationPart], max_tokens: int, on_progress: Progress | None = None
) -> list[ModelOutputs]:
    """Compute the outputs of a model for each part.

    Args:
        lm: The model, with any adapter that is attached to it.
        parts: The parts of the held-out dialogues.
        max_tokens: Maximum number of tokens of a generated answer.
        on_progress: Receives an event of stage `generation` for each generated answer, then one of stage `likelihood`
            for each question.
    """
    dialogues = [dialogue for part in parts for dialogue in part.dialogues]
    answers = iter(generate_answers(lm, dialogues, max_tokens, on_progress))
    losses = iter(answer_losses(lm, dialogues))
    return [
        ModelOutputs(
            answers=list(itertools.islice(answers, len(part.dialogues))),
            losses=list(itertools.islice(losses, len(part.dialogues))),
            likelihoods=_part_likelihoods(lm, part, on_progress),
        )
        for part in parts
    ]


def without_questions(parts: Sequence[EvaluationPart]) -> list[EvaluationPart]:
    """Return parts of which only greedy answers and the losses of the preferred ones are computed and compared.

    Args:
        parts: The parts of the held-out dialogues.
    """
    return [dataclasses.replace(part, questions=(), groups=(), others=()) for part in parts]


def with_likelihoods(
    lm: LanguageModel,
    parts: Sequence[EvaluationPart],
    outputs: Sequence[ModelOutputs],
    on_progress: Progress | None = None,
) -> list[ModelOutputs]:
    """Return outputs that were computed `without_questions` with the likelihoods of answers after questions.

    Args:
        lm: The model that computed the outputs.
        parts: The parts with their questions.
        outputs: The outputs for each part.
        on_progress: Receives an event of stage `likelihood` for each question.
    """
    return [
        dataclasses.replace(output, likelihoods=_part_likelihoods(lm, part, on_progress))
        for part, output in zip(parts, outputs, strict=True)
    ]


def compare_outputs(
    parts: Sequence[EvaluationPart],
    before: Sequence[ModelOutputs],
    after: Sequence[ModelOutputs],
    constant_answer: str | None = None,
    embed: Embed | None = None,
    seed: int = 0,
) -> Evaluation:
    """Compare the outputs of two models.

    Args:
        parts: The parts of the held-out dialogues.
        before: Outputs of the first model for each part.
        after: Outputs of the second model for each part.
        constant_answer: One answer for all, see `typical_answer`; None to leave it out.
        embed: Computes the vectors of answers; None to leave the similarity out.
        seed: Random seed of the bootstrap.

    Returns:
        The comparison on the dialogues that the user judged, with that on the others as `inferred`; if the user judged
        none, the comparison on the others alone.

    Raises:
        ValueError: If there are no dialogues, or not one answer for each assistant turn.
    """
    evaluations = [
        _compare_part(part, b, a, constant_answer, embed, seed) for part, b, a in zip(parts, before, after, strict=True)
    ]
    if not evaluations:
        raise ValueError("there is no dialogue to evaluate on")
    first, *rest = evaluations
    return dataclasses.replace(first, inferred=rest[0]) if rest else first


def typical_answer(lm: LanguageModel, dialogues: Sequence[Dialogue], max_tokens: int) -> str | None:
    """Return the most typical answer of dialogues: one answer for all.

    Args:
        lm: The model whose tokenizer truncates answers.
        dialogues: The dialogues, none of them held out; of many, the answers of the last ones are used.
        max_tokens: Maximum number of tokens of an answer, as of a generated one.

    Returns:
        The answer with the highest mean ROUGE-1 to all others; None without dialogues.
    """
    turns = [strip_thoughts(turn) for dialogue in dialogues for turn in dialogue.assistant_turns]
    turns = [turn for turn in turns if turn][-_MAX_CONSTANT_CANDIDATES:]
    return choose_constant_answer([lm.tokenizer.decode(lm.tokenize(turn)[:max_tokens]) for turn in turns], turns)


def _part_likelihoods(lm: LanguageModel, part: EvaluationPart, on_progress: Progress | None) -> np.ndarray:
    return answer_likelihoods(lm, part.questions, question_pairs(part.groups, part.others), on_progress)


def _compare_part(
    part: EvaluationPart,
    before: ModelOutputs,
    after: ModelOutputs,
    constant_answer: str | None,
    embed: Embed | None,
    seed: int,
) -> Evaluation:
    evaluation = compare_answers(before.answers, after.answers, part.dialogues, seed)
    samples = tuple(
        dataclasses.replace(sample, log_likelihood_before=_log_likelihood(b), log_likelihood_after=_log_likelihood(a))
        for sample, b, a in zip(evaluation.samples, before.losses, after.losses, strict=True)
    )
    return dataclasses.replace(
        evaluation,
        samples=samples,
        is_inferred=part.is_inferred,
        log_likelihood=_compare_likelihoods(before, after, seed),
        specificity=(
            compare_specificity(before.likelihoods, after.likelihoods, part.others, seed)
            if _is_finite(before, part) and _is_finite(after, part)
            else None
        ),
        choice=compare_choice(before.likelihoods, after.likelihoods, part.groups, seed),
        similarity=None if embed is None else _compare_similarity(evaluation, embed, seed),
        constant_answer=None if constant_answer is None else _compare_constant(evaluation, constant_answer, part, seed),
    )


def _log_likelihood(loss: AnswerLoss) -> float | None:
    """Return the log-likelihood in nats a token; None without targets, or if a damaged model's is not finite."""
    value = -loss.nats / loss.tokens if loss.tokens else math.nan
    return value if math.isfinite(value) else None


def _compare_likelihoods(before: ModelOutputs, after: ModelOutputs, seed: int) -> MetricChange | None:
    """Compare the likelihoods of the dialogues with targets; None without any, or if one of them is not finite."""
    pairs = [
        (_log_likelihood(b), _log_likelihood(a)) for b, a in zip(before.losses, after.losses, strict=True) if b.tokens
    ]
    finite = [(b, a) for b, a in pairs if b is not None and a is not None]
    if not pairs or len(finite) < len(pairs):
        return None
    return MetricChange.of([b for b, _ in finite], [a for _, a in finite], seed)


def _is_finite(outputs: ModelOutputs, part: EvaluationPart) -> bool:
    pairs = question_pairs(others=part.others)
    return all(math.isfinite(outputs.likelihoods[pair]) for pair in pairs)


def _compare_similarity(evaluation: Evaluation, embed: Embed, seed: int) -> MetricChange | None:
    preferred = [sample.preferred for sample in evaluation.samples]
    before = answer_similarities([sample.before for sample in evaluation.samples], preferred, embed)
    after = answer_similarities([sample.after for sample in evaluation.samples], preferred, embed)
    return None if before is None or after is None else MetricChange.of(before, after, seed)


def _compare_constant(evaluation: Evaluation, answer: str, part: EvaluationPart, seed: int) -> ConstantAnswer:
    constant = [[answer] * len(sample.preferred) for sample in evaluation.samples]
    change = compare_answers(constant, [sample.after for sample in evaluation.samples], part.dialogues, seed)
    return ConstantAnswer(answer, change.rouge1, change.rougeL)
