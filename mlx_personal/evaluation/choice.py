"""Choice of n: how high a model ranks the preferred answer to a question among other answers of like length.

The questions are divided into groups, and each question of a group has the answers of the whole group to choose from.
So a model that ignores the question ranks the answers of a group in one order for all its questions, and scores exactly
the chance level, whatever that order is.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_personal.evaluation.intervals import MetricChange


@dataclass(frozen=True)
class ChoiceChange:
    """How two models rank the preferred answers to the same questions.

    Attributes:
        n: Number of questions.
        choices: Largest number of answers that a question has to choose from, its own included.
        mrr: Mean reciprocal rank of the own answer, 0..1.
        top1: Share of the questions whose own answer is the likeliest.
        chance_mrr: Mean reciprocal rank of a model that ignores the question.
        chance_top1: Share of top answers of such a model.
    """

    n: int
    choices: int
    mrr: MetricChange
    top1: MetricChange
    chance_mrr: float
    chance_top1: float


def group_by_length(answers: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Divide questions into groups whose answers are of like length, with group sizes that differ by at most 1.

    Of questions with equal answers only the first is used, because there is no right choice among equal ones.

    Args:
        answers: Token ids of the preferred answer of each question.
        size: Maximum number of questions of a group.

    Returns:
        The indices of the questions of each group; no groups if fewer than two answers differ.

    Raises:
        ValueError: If `size` is below 2.
    """
    if size < 2:
        raise ValueError("a choice needs at least two answers")
    first_of = {tuple(answer): index for index, answer in reversed(list(enumerate(answers)))}
    by_length = sorted(first_of.values(), key=lambda index: (len(answers[index]), index))
    if len(by_length) < 2:
        return []
    return [group.tolist() for group in np.array_split(by_length, -(-len(by_length) // size))]


def reciprocal_ranks(likelihoods: np.ndarray, groups: Iterable[Sequence[int]]) -> list[float]:
    """Return the reciprocal rank of the own answer to each question of each group.

    Args:
        likelihoods: Log-likelihoods in nats a token, [N, N]: in row i and column j that of answer j after question i.
        groups: Indices of the questions of each group.

    Returns:
        Reciprocal ranks, 0..1; of equally likely answers, the mean over all orders.
    """
    return [
        statistics.fmean(1 / rank for rank in range(likelier + 1, likelier + equal + 1))
        for likelier, equal in _positions(likelihoods, groups)
    ]


def top1_shares(likelihoods: np.ndarray, groups: Iterable[Sequence[int]]) -> list[float]:
    """Return for each question of each group whether its own answer is the likeliest, as 0 or 1.

    Args:
        likelihoods: As in `reciprocal_ranks`.
        groups: As in `reciprocal_ranks`.

    Returns:
        Shares; an answer that is likeliest together with others counts as a fraction.
    """
    return [0.0 if likelier else 1 / equal for likelier, equal in _positions(likelihoods, groups)]


def chance_reciprocal_rank(size: int) -> float:
    """Return the expected reciprocal rank of one of `size` answers in random order.

    Args:
        size: Number of answers, at least 1.
    """
    return statistics.fmean(1 / rank for rank in range(1, size + 1))


def compare_choice(
    before: np.ndarray, after: np.ndarray, groups: Sequence[Sequence[int]], seed: int = 0
) -> ChoiceChange | None:
    """Compare how two models choose the own answers.

    Args:
        before: Log-likelihoods of the first model, as in `reciprocal_ranks`.
        after: Log-likelihoods of the second model.
        groups: Result of `group_by_length`.
        seed: Random seed of the bootstrap.

    Returns:
        The comparison; None without groups.
    """
    if not groups:
        return None
    sizes = [len(group) for group in groups for _ in group]
    return ChoiceChange(
        n=len(sizes),
        choices=max(sizes),
        mrr=MetricChange.of(reciprocal_ranks(before, groups), reciprocal_ranks(after, groups), seed),
        top1=MetricChange.of(top1_shares(before, groups), top1_shares(after, groups), seed),
        chance_mrr=statistics.fmean(map(chance_reciprocal_rank, sizes)),
        chance_top1=statistics.fmean(1 / size for size in sizes),
    )


def _positions(likelihoods: np.ndarray, groups: Iterable[Sequence[int]]) -> list[tuple[int, int]]:
    """Return for each question how many answers are likelier than its own, and how many as likely, own included."""
    # A damaged model's NaN is less likely than anything, so that it is not ranked first.
    values = np.where(np.isnan(likelihoods), -np.inf, likelihoods)
    positions = []
    for group in map(list, groups):
        for question in group:
            row, own = values[question, group], values[question, question]
            positions.append((int((row > own).sum()), int((row == own).sum())))
    return positions
