"""How varied and how long answers are, whatever they say."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

from mlx_personal.dialogue import words


def distinct_2(answers: Sequence[str]) -> float:
    """Return distinct-2: the number of different pairs of adjacent words, divided by the number of pairs.

    It falls as texts become longer, so compare it only for answers of like length.

    Args:
        answers: The answers, whose pairs are counted together.

    Returns:
        0..1; 1 if no pair occurs twice, and 0 if there is no pair.

    References:
        [Li16]
    """
    pairs = [pair for answer in answers for pair in itertools.pairwise(words(answer))]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def mean_words(answers: Sequence[str]) -> float:
    """Return the mean number of words of an answer; 0 if there are no answers.

    Args:
        answers: The answers.
    """
    return statistics.fmean(len(words(answer)) for answer in answers) if answers else 0.0
