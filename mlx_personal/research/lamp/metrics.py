"""LaMP's metrics: accuracy and macro-F1, MAE and RMSE, ROUGE-1 and ROUGE-L, with the names of LaMP's own script.

Every metric is a function of sums over pairs of a prediction and a gold answer. A bootstrap over users therefore draws
sums of users and reads no text again:

    sums = np.stack([pair_statistics(task, predictions, golds).sum(axis=0) for each user])   # [users, S]
    compute_metrics(task, draws @ sums)      # draws [B, users]: how often each user was drawn; each metric [B]

The tokenizer of LaMP's ROUGE, that of rouge-score, drops everything but a-z and 0-9, so that text in another script
scores 0. ROUGE is therefore computed a second time, over the words of all scripts and over emoji, under the names of
`UNICODE_METRICS`. On ASCII text both are equal.

This differs from LaMP's script [Salemi24] in three points. A gold answer that is not a label never counts as correct.
`nan`, `inf` and numbers too large to be squared count as unparsable. ROUGE is the mean itself, while the script reports
the median of 1,000 random resamples, as the `evaluate` library does.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from rouge_score import rouge_scorer

from mlx_personal.dialogue import words
from mlx_personal.research.lamp.tasks import LampTask

METRICS: Final[Mapping[str, tuple[str, str]]] = {
    "classification": ("accuracy", "f1"),
    "rating": ("MAE", "RMSE"),
    "generation": ("rouge-1", "rouge-L"),
}
# Metrics that are better where they are lower.
ERROR_METRICS: Final = METRICS["rating"]
# ROUGE over the words of all scripts and over emoji, beside `METRICS`.
UNICODE_METRICS: Final = ("rouge-1 (Unicode)", "rouge-L (Unicode)")
_ROUGE_TYPES: Final = ("rouge1", "rougeL")
# Columns of the statistics of a generation task.
_ROUGE_COLUMNS: Final = dict(zip((*METRICS["generation"], *UNICODE_METRICS), range(1, 5), strict=True))
_COUNT_COLUMNS: Final = range(5, 8)
_ASCII_WORD: Final = re.compile("[a-z0-9]+")
# Characters that change how an emoji looks, or join several: not words of their own.
_EMOJI_PARTS: Final = re.compile("[\ufe00-\ufe0f\u200d\u20e3\U000e0020-\U000e007f]")
_EXTREME_RATINGS: Final = (1.0, 5.0)


@dataclass(frozen=True)
class TokenizerCounts:
    """What the two tokenizers of ROUGE know of the texts of a generation task; 0 for other tasks, except `golds`.

    Attributes:
        golds: Gold answers.
        golds_without_ascii_words: Those without a-z and 0-9, which score 0 in LaMP's ROUGE whatever the prediction.
        golds_without_words: Those without a word of any script and without an emoji, which score 0 in both.
        pairs_with_other_words: Pairs with words or emoji that LaMP's ROUGE drops.
    """

    golds: int
    golds_without_ascii_words: int = 0
    golds_without_words: int = 0
    pairs_with_other_words: int = 0

    def unscorable(self, metric: str) -> int:
        """Return the number of gold answers that a metric cannot score."""
        return self.golds_without_words if metric in UNICODE_METRICS else self.golds_without_ascii_words


def pair_statistics(task: LampTask, predictions: Sequence[str], golds: Sequence[str]) -> np.ndarray:
    """Return the statistics of each pair, whose sums determine the metrics.

    The first column is 1. The others depend on the kind of the task:

    - classification: whether the prediction is correct; then for each of L labels whether it is a correct prediction,
      whether it is predicted, and whether it is the gold answer;
    - rating: the absolute error and its square;
    - generation: the F-measures of ROUGE-1 and ROUGE-L [Lin04]; the same over Unicode words; then whether the gold has
      no word of a-z and 0-9, whether it has no word at all, and whether the pair has words that LaMP's ROUGE drops.

    Returns:
        float64 [N, S].

    Raises:
        ValueError: If the numbers of predictions and golds differ, or the gold answer of a rating is not a number.
    """
    function = {"classification": _label_statistics, "rating": _rating_statistics, "generation": _rouge_statistics}
    compute = function[task.kind]
    rows = [compute(task, prediction, gold) for prediction, gold in zip(predictions, golds, strict=True)]
    return np.array(rows, np.float64).reshape(len(rows), -1) if rows else np.zeros((0, num_statistics(task)))


def compute_metrics(task: LampTask, sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return the metrics for sums of `pair_statistics`.

    Macro-F1 is the mean over all labels of the task. A label that is neither predicted nor gold has an F1 of 0. The
    metrics of a generation task are those of `METRICS` and then those of `UNICODE_METRICS`.

    Args:
        task: Task of the pairs.
        sums: float64 [..., S].

    Returns:
        Each metric, float64 [...]; NaN where no pair was summed.
    """
    first, second = METRICS[task.kind]
    with np.errstate(invalid="ignore"):
        means = sums[..., 1:3] / sums[..., :1]
    if task.kind == "classification":
        correct, predicted, gold = np.split(sums[..., 2:], 3, axis=-1)
        f1 = np.mean(2 * correct / np.maximum(predicted + gold, 1), axis=-1)
        return {first: means[..., 0], second: np.where(sums[..., 0] > 0, f1, np.nan)}
    if task.kind == "rating":
        return {first: means[..., 0], second: np.sqrt(means[..., 1])}
    with np.errstate(invalid="ignore"):
        return {name: sums[..., column] / sums[..., 0] for name, column in _ROUGE_COLUMNS.items()}


def tokenizer_counts(task: LampTask, sums: np.ndarray) -> TokenizerCounts:
    """Return what the tokenizers of ROUGE know of some pairs, from sums of `pair_statistics` float64 [S]."""
    columns = _COUNT_COLUMNS if task.kind == "generation" else ()
    return TokenizerCounts(int(sums[0]), *(int(sums[column]) for column in columns))


def num_statistics(task: LampTask) -> int:
    """Return the number of columns of `pair_statistics`."""
    return {"classification": 2 + 3 * len(task.labels), "rating": 3, "generation": 8}[task.kind]


def _label_statistics(task: LampTask, prediction: str, gold: str) -> list[bool]:
    """Compare a prediction with each label, without outer spaces; any other text matches no label."""
    predicted, true = ([label == text.strip() for label in task.labels] for text in (prediction, gold))
    correct = [a and b for a, b in zip(predicted, true, strict=True)]
    return [True, any(correct), *correct, *predicted, *true]


def _rating_statistics(_: LampTask, prediction: str, gold: str) -> list[float]:
    """Return the errors of a rating; a prediction that is not a number counts as 1 or 5, whichever is farther."""
    target = float(gold)
    try:
        rating = float(prediction)
    except ValueError:
        rating = math.nan
    if not math.isfinite(rating * rating):  # a model may write a number of any length
        rating = max(_EXTREME_RATINGS, key=lambda extreme: abs(extreme - target))
    return [1.0, abs(rating - target), (rating - target) ** 2]


def _rouge_statistics(_: LampTask, prediction: str, gold: str) -> list[float]:
    texts = gold.strip(), prediction.strip()
    scores = _rouge_scorer().score(*texts)
    f_measures = [scores[name].fmeasure for name in _ROUGE_TYPES]
    has_other_words = not all(_UnicodeTokenizer.tokenize(text) == _ASCII_WORD.findall(text.lower()) for text in texts)
    unicode_f_measures = f_measures
    if has_other_words:
        unicode_scores = _unicode_rouge_scorer().score(*texts)
        unicode_f_measures = [unicode_scores[name].fmeasure for name in _ROUGE_TYPES]
    without_ascii_words = not _ASCII_WORD.search(texts[0].lower())
    without_words = not _UnicodeTokenizer.tokenize(texts[0])
    return [1.0, *f_measures, *unicode_f_measures, without_ascii_words, without_words, has_other_words]


class _UnicodeTokenizer:
    """Splits text into words, as everywhere in this package, and takes each emoji or other symbol as a word."""

    @staticmethod
    def tokenize(text: str) -> list[str]:
        """Return the words and symbols of a text, in order."""
        if text.isascii():
            return words(text)
        text = _EMOJI_PARTS.sub("", text)
        tokens: list[str] = []
        start = 0
        for position, character in enumerate(text):
            if unicodedata.category(character) == "So":
                tokens += [*words(text[start:position]), character]
                start = position + 1
        return tokens + words(text[start:])


@functools.cache
def _rouge_scorer() -> rouge_scorer.RougeScorer:
    # The default tokenizer of rouge-score knows only a-z and 0-9, and the published numbers were made with it.
    return rouge_scorer.RougeScorer(list(_ROUGE_TYPES), use_stemmer=False)


@functools.cache
def _unicode_rouge_scorer() -> rouge_scorer.RougeScorer:
    return rouge_scorer.RougeScorer(list(_ROUGE_TYPES), tokenizer=_UnicodeTokenizer())
