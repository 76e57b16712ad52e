"""`perplexity`: an answer that the device model would give anyway teaches nothing, and one it finds absurd is noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_personal.augmentation.task import Record, Task
from mlx_personal.evaluation import answer_losses
from mlx_personal.models import LanguageModel


def nats_per_token(lm: LanguageModel, task: Task, records: Sequence[Record]) -> np.ndarray:
    """The loss of each record's answer after its question, float64 [N], in nats per token, the end token with them."""
    losses = answer_losses(lm, [task.dialogue(record) for record in records])
    return np.array([loss.nats / max(loss.tokens, 1) for loss in losses])
