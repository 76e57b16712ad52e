"""How likely a model finds the preferred answers: their cross entropy, from which perplexity and forgetting follow.

Beyond the paper, which reports ROUGE of generated answers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_personal.dialogue import Dialogue
from mlx_personal.finetune.data.samples import make_samples
from mlx_personal.models import LanguageModel
from mlx_personal.runtime.cpu_ops import fast

# Tokens of one padded batch: the logits of so many, with a vocabulary of 128k, take 0.5 GB.
_BATCH_TOKENS = 1024


@dataclass(frozen=True)
class AnswerLoss:
    """Of one dialogue's assistant turns: `nats`, their summed cross entropy, and `tokens`, how many targets it sums."""

    nats: float
    tokens: int


def answer_losses(lm: LanguageModel, dialogues: Sequence[Dialogue], max_tokens: int = 1024) -> list[AnswerLoss]:
    """The loss of each dialogue's assistant turns, with their end tokens, after what was really said before them.

    A row of over `max_tokens` tokens loses its beginning. A dialogue without targets has 0 nats on 0 tokens.
    """
    longest = min(max_tokens, lm.context_length)
    owned = [(i, row) for i, dialogue in enumerate(dialogues) for row in make_samples(lm, [dialogue], longest).rows]
    owned.sort(key=lambda pair: len(pair[1]))
    nats, tokens = np.zeros(len(dialogues)), np.zeros(len(dialogues), int)
    while owned:
        # The longest that are left; padding stands behind them, where a causal mask lets no real token see it.
        width = len(owned[-1][1])
        count = max(1, _BATCH_TOKENS // width)
        batch, owned = owned[-count:], owned[:-count]
        inputs, targets = np.zeros((2, len(batch), width), np.int32)
        learnt = np.zeros((len(batch), width), bool)
        for place, (_, row) in enumerate(batch):
            inputs[place, : len(row)], targets[place, : len(row)] = row.inputs, row.targets
            learnt[place, : len(row)] = row.is_target
        losses = _cross_entropies(lm, inputs, targets)
        for place, (i, _) in enumerate(batch):
            nats[i] += losses[place][learnt[place]].sum(dtype=np.float64)
            tokens[i] += learnt[place].sum()
    return [AnswerLoss(float(n), int(t)) for n, t in zip(nats, tokens, strict=True)]


def _cross_entropies(lm: LanguageModel, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float32 [B, T], of each target after the inputs up to its place."""
    with fast(lm.model):
        logits = lm.model(mx.array(inputs)).astype(mx.float32)
        at_target = mx.take_along_axis(logits, mx.array(targets)[..., None], axis=-1).squeeze(-1)
        return np.array(mx.logsumexp(logits, axis=-1) - at_target)
