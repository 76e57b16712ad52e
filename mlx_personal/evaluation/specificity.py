"""Specificity: how much likelier an answer is after its own question than after another one.

A model that gives one answer to everything finds an answer equally likely after every question, so its specificity is
0, however well its answers are worded.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_personal.evaluation.intervals import MetricChange, bootstrap_interval

# Separates this draw from others with the same seed.
_STREAM = 1


@dataclass(frozen=True)
class SpecificityChange:
    """The specificity of two models on the same questions.

    Attributes:
        n: Number of answers.
        other_questions: Largest number of other questions that an answer is computed after.
        nats: log p(answer | its question) - log p(answer | another question), in nats a token, mean over the other
            questions of an answer, then over the answers.
        before_interval: 95 % confidence interval of the first model's mean.
        after_interval: 95 % confidence interval of the second model's mean.
        share: Share of the other questions after which the answer is less likely than after its own, mean over the
            answers; 0.5 for a model that ignores the question.
    """

    n: int
    other_questions: int
    nats: MetricChange
    before_interval: tuple[float, float]
    after_interval: tuple[float, float]
    share: MetricChange


def draw_other_questions(
    prompts: Sequence[Hashable], count: int, seed: int = 0, groups: Iterable[Collection[int]] = ()
) -> list[list[int]]:
    """Draw for each question some others, after which its answer is computed too.

    Args:
        prompts: The prompt of each question. Questions with equal prompts are not other ones to each other.
        count: Number of other questions; all of them if there are fewer.
        seed: Random seed of the draw.
        groups: Groups of `choice.group_by_length`. The others of a question are drawn from its group if there are any
            in it: its answer is computed after these questions in any case.

    Returns:
        For each question the indices of its other questions, in ascending order.
    """
    rng = np.random.default_rng([seed, _STREAM])
    group_of = {index: group for group in groups for index in group}
    drawn = []
    for number, prompt in enumerate(prompts):
        everywhere = [index for index, other in enumerate(prompts) if other != prompt]
        different = [index for index in group_of.get(number, ()) if prompts[index] != prompt] or everywhere
        drawn.append(sorted(rng.choice(different, min(count, len(different)), replace=False).tolist()))
    return drawn


def specificities(likelihoods: np.ndarray, others: Sequence[Sequence[int]]) -> list[float]:
    """Return the specificity of each answer that has other questions.

    Args:
        likelihoods: Log-likelihoods in nats a token, [N, N]: in row i and column j that of answer j after question i.
        others: For each answer the indices of its other questions.

    Returns:
        Means over the other questions, in nats a token.
    """
    return [float(np.mean(gains)) for gains in _gains(likelihoods, others)]


def own_question_shares(likelihoods: np.ndarray, others: Sequence[Sequence[int]]) -> list[float]:
    """Return for each answer the share of its other questions after which it is less likely than after its own.

    Args:
        likelihoods: As in `specificities`.
        others: As in `specificities`.

    Returns:
        Shares, 0..1; equal likelihoods count half.
    """
    return [float(np.mean((gains > 0) + 0.5 * (gains == 0))) for gains in _gains(likelihoods, others)]


def compare_specificity(
    before: np.ndarray, after: np.ndarray, others: Sequence[Sequence[int]], seed: int = 0
) -> SpecificityChange | None:
    """Compare the specificity of two models.

    Args:
        before: Log-likelihoods of the first model, as in `specificities`.
        after: Log-likelihoods of the second model.
        others: For each answer the indices of its other questions, the same for both models.
        seed: Random seed of the bootstrap.

    Returns:
        The comparison; None if no answer has another question.
    """
    if not any(others):
        return None
    nats_before, nats_after = specificities(before, others), specificities(after, others)
    return SpecificityChange(
        n=len(nats_before),
        other_questions=max(map(len, others)),
        nats=MetricChange.of(nats_before, nats_after, seed),
        before_interval=bootstrap_interval(nats_before, seed),
        after_interval=bootstrap_interval(nats_after, seed),
        share=MetricChange.of(own_question_shares(before, others), own_question_shares(after, others), seed),
    )


def _gains(likelihoods: np.ndarray, others: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Return for each answer with other questions how much likelier it is after its own question than after each."""
    return [
        likelihoods[answer, answer] - likelihoods[list(questions), answer]
        for answer, questions in enumerate(others)
        if questions
    ]
