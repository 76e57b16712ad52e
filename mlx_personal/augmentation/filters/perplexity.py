"""The `perplexity` filter: answers that the device model expects anyway teach nothing; very unlikely ones are noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_personal.augmentation.task import Record, Task
from mlx_personal.evaluation import answer_losses
from mlx_personal.models import LanguageModel


def answer_nats_per_token(lm: LanguageModel, task: Task, records: Sequence[Record]) -> np.ndarray:
    """Return the loss of each record's answer after its question.

    Args:
        lm: The device model without an adapter.
        task: The task of the records.
        records: N records.

    Returns:
        Losses in nats per token, the end token included, float64 [N].
    """
    losses = answer_losses(lm, [task.to_dialogue(record) for record in records])
    return np.array([loss.nats / max(loss.tokens, 1) for loss in losses])
