"""The `label` filter: the answer is one of the task's labels, confirmed by the nearest records or by the device model.

Either confirmation is enough: a few records say little about a new text, and a model without an adapter knows nothing
about the user.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mlx_personal.augmentation.task import Record, Task
from mlx_personal.models import LanguageModel


def winning_labels(cosines: np.ndarray, own_labels: Sequence[str], max_neighbors: int) -> list[set[str]]:
    """Return the most frequent labels among the own records nearest to each candidate.

    Args:
        cosines: Cosine similarities of N candidates to M own records, [N, M]. Of equal ones the earlier counts as
            nearer.
        own_labels: Labels of the M own records.
        max_neighbors: Maximum number of records that vote. Never more than ceil(sqrt(M)) vote: if all of a few records
            voted, the result would not depend on the candidate.

    Returns:
        For each candidate the labels with the most votes.
    """
    winners = []
    num_voters = min(max_neighbors, math.ceil(math.sqrt(len(own_labels))))
    for nearest in np.argsort(-cosines, axis=1, kind="stable")[:, :num_voters]:
        votes = Counter(own_labels[i] for i in nearest)
        winners.append({label for label, count in votes.items() if count == max(votes.values())})
    return winners


def label_confidences(
    lm: LanguageModel, task: Task, own_records: Sequence[Record], candidates: Sequence[Record]
) -> np.ndarray:
    """Return how probable the model finds the label of each candidate, relative to that label's average.

    Probabilities are normalized over the task's labels. The average is taken over the user's own texts: a model prefers
    some labels whatever the text, and without it those would always be confirmed and others never.

    Args:
        lm: The device model without an adapter.
        task: A task with labels.
        own_records: The user's own records.
        candidates: N records whose answers are labels.

    Returns:
        Ratios to the average, float64 [N].
    """
    if not candidates:
        return np.zeros(0)
    prompts = [
        lm.tokenize_prompt([{"role": "user", "content": task.format_question(record.text)}])
        for record in (*own_records, *candidates)
    ]
    likelihoods = lm.log_likelihoods(prompts, task.labels)
    log_probabilities = likelihoods - np.logaddexp.reduce(likelihoods, axis=1, keepdims=True)
    num_own = len(own_records)
    average = np.logaddexp.reduce(log_probabilities[:num_own], axis=0) - np.log(num_own)
    label_indices = [task.labels.index(record.answer) for record in candidates]
    chosen = log_probabilities[num_own:][np.arange(len(label_indices)), label_indices]
    return np.asarray(np.exp(chosen - average[label_indices]))
