"""`label`: the answer is one of the task's, and the user's nearest records or the device model confirm it.

Either is enough: few records know little of a new text, and a model without an adapter knows nothing of the user.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mlx_personal.augmentation.task import Record, Task
from mlx_personal.models import LanguageModel


def by_vote(cosines: np.ndarray, own: Sequence[str], neighbours: int) -> list[set[str]]:
    """The winning labels for each of N candidates: those most frequent among its nearest own records.

    Args:
        cosines: to the own records, [N, M]; of equal ones the earlier counts as nearer.
        own: their M labels.
        neighbours: how many vote at most. Of few records fewer do, the square root of M, rounded up: if all voted, the
            text would not count.
    """
    winners = []
    voters = min(neighbours, math.ceil(math.sqrt(len(own))))
    for nearest in np.argsort(-cosines, axis=1, kind="stable")[:, :voters]:
        votes = Counter(own[i] for i in nearest)
        winners.append({label for label, count in votes.items() if count == max(votes.values())})
    return winners


def by_model(lm: LanguageModel, task: Task, own: Sequence[Record], candidates: Sequence[Record]) -> np.ndarray:
    """How probable the model finds each of N candidates' labels, in relation to that label's average: float64 [N].

    A probability is among the labels alone. The average is over the user's own texts: a model prefers some labels
    whatever the text, and without it those would always be confirmed and others never.
    """
    if not candidates:
        return np.zeros(0)
    prompts = [lm.prompt_tokens([{"role": "user", "content": task.ask(r.text)}]) for r in (*own, *candidates)]
    likelihoods = lm.log_likelihoods_of_each(prompts, task.labels)
    logs = likelihoods - np.logaddexp.reduce(likelihoods, axis=1, keepdims=True)
    average = np.logaddexp.reduce(logs[: len(own)], axis=0) - np.log(len(own))
    chosen = [task.labels.index(record.answer) for record in candidates]
    return np.asarray(np.exp(logs[len(own) :][np.arange(len(chosen)), chosen] - average[chosen]))
