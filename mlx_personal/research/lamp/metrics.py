"""LaMP's metrics: accuracy and macro-F1, MAE and RMSE, ROUGE-1 and ROUGE-L, under the names of its own script.

Every metric here is a function of sums over pairs of prediction and gold (`statistics`, `metrics_of`), so that a
bootstrap over users draws sums of users and never looks at a text again:

    sums = np.stack([statistics(task, predictions, golds).sum(axis=0) for each user])   # [users, S]
    metrics_of(task, draws @ sums)      # draws [B, users]: how often each user was drawn; each metric [B]

Differences from LaMP's script: a gold that is no label never counts as met; `nan`, `inf` and what is too large to be
squared count as unparsable; and where that script gives the median of 1,000 random resamples of ROUGE (as `evaluate`
does), this gives the mean itself.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from rouge_score import rouge_scorer

from mlx_personal.research.lamp.tasks import LampTask

METRICS: Final[Mapping[str, tuple[str, str]]] = {
    "classification": ("accuracy", "f1"),
    "rating": ("MAE", "RMSE"),
    "generation": ("rouge-1", "rouge-L"),
}
LOWER_IS_BETTER: Final = frozenset({"MAE", "RMSE"})
_WORST_RATINGS: Final = (1.0, 5.0)


@dataclass(frozen=True)
class Scores:
    """A task's metrics over N pairs, and those that a pair has of its own, float64 [N]: macro-F1 and RMSE have none."""

    metrics: Mapping[str, float]
    per_item: Mapping[str, np.ndarray]


def score(task: LampTask, predictions: Sequence[str], golds: Sequence[str]) -> Scores:
    """All metrics of a task; ValueError for no pairs, and for numbers of predictions and golds that differ."""
    if not golds:
        raise ValueError("nothing to score")
    table = statistics(task, predictions, golds)
    first, second = METRICS[task.kind]
    per_item = {first: table[:, 1]}
    if task.kind == "generation":
        per_item[second] = table[:, 2]
    return Scores({name: float(value) for name, value in metrics_of(task, table.sum(axis=0)).items()}, per_item)


def statistics(task: LampTask, predictions: Sequence[str], golds: Sequence[str]) -> np.ndarray:
    """What the metrics are sums of, float64 [N, S]: a 1, and then by the task's kind

    - classification: whether met; then for each of L labels whether met, whether predicted, whether gold;
    - rating: the absolute error, and its square;
    - generation: the F-measures of ROUGE-1 and ROUGE-L.

    ValueError for numbers of predictions and golds that differ, and for a rating's gold that is no number.
    """
    row = {"classification": _labels, "rating": _errors, "generation": _rouges}[task.kind]
    rows = [row(task, prediction, gold) for prediction, gold in zip(predictions, golds, strict=True)]
    return np.array(rows, np.float64).reshape(len(rows), -1) if rows else np.zeros((0, _width(task)))


def metrics_of(task: LampTask, sums: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of sums of `statistics`, [..., S]: each [...]; NaN where no pair was summed.

    Macro-F1 is the mean over all labels of the task: one that is neither predicted nor gold has an F1 of 0.
    """
    first, second = METRICS[task.kind]
    with np.errstate(invalid="ignore"):
        means = sums[..., 1:3] / sums[..., :1]
    if task.kind == "classification":
        met, predicted, gold = np.split(sums[..., 2:], 3, axis=-1)
        f1 = np.mean(2 * met / np.maximum(predicted + gold, 1), axis=-1)
        return {first: means[..., 0], second: np.where(sums[..., 0] > 0, f1, np.nan)}
    if task.kind == "rating":
        return {first: means[..., 0], second: np.sqrt(means[..., 1])}
    return {first: means[..., 0], second: means[..., 1]}


def _width(task: LampTask) -> int:
    return 2 + 3 * len(task.labels) if task.kind == "classification" else 3


def _labels(task: LampTask, prediction: str, gold: str) -> list[bool]:
    """A label is met exactly, outer spaces aside; anything else is an answer that no label has."""
    said, right = prediction.strip(), gold.strip()
    predicted, true = ([label == text for label in task.labels] for text in (said, right))
    met = [a and b for a, b in zip(predicted, true, strict=True)]
    return [True, any(met), *met, *predicted, *true]


def _errors(_: LampTask, prediction: str, gold: str) -> list[float]:
    """What is no number counts as the rating that is farther from the gold: 1 or 5."""
    right = float(gold)
    try:
        said = float(prediction)
    except ValueError:
        said = math.nan
    if not math.isfinite(said * said):  # a model may write digits on and on
        said = max(_WORST_RATINGS, key=lambda worst: abs(worst - right))
    return [1.0, abs(said - right), (said - right) ** 2]


def _rouges(_: LampTask, prediction: str, gold: str) -> list[float]:
    scores = _scorer().score(gold.strip(), prediction.strip())
    return [1.0, scores["rouge1"].fmeasure, scores["rougeL"].fmeasure]


@functools.cache
def _scorer() -> rouge_scorer.RougeScorer:
    # With the package's own tokenizer, which knows a-z and 0-9 alone, as the benchmark's numbers do.
    return rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
