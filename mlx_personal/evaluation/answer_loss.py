"""Cross entropy of preferred answers under a model, from which perplexity and forgetting are computed.

[Qin24] reports ROUGE of generated answers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from mlx_personal.dialogue import Dialogue
from mlx_personal.finetune.data.samples import make_samples
from mlx_personal.models import LanguageModel
from mlx_personal.runtime.cpu_ops import fast_ops
from mlx_personal.runtime.device import device_name

# Maximum number of tokens of a padded batch, whose logits take 0.5 GB with a vocabulary of 128k.
_BATCH_TOKENS = 1024
# On a CPU, batches of 1024 tokens took 1.4 times as long as batches of 256.
_CPU_BATCH_TOKENS = 256


@dataclass(frozen=True)
class AnswerLoss:
    """The loss of one dialogue's assistant turns.

    Attributes:
        nats: Sum of the cross entropies of the target tokens.
        tokens: Number of target tokens.
    """

    nats: float
    tokens: int


def answer_losses(lm: LanguageModel, dialogues: Sequence[Dialogue], max_tokens: int | None = None) -> list[AnswerLoss]:
    """Return the loss of each dialogue's assistant turns with their end tokens, given the true preceding turns.

    Args:
        lm: The model, with any adapter that is attached to it.
        dialogues: The dialogues with the preferred answers. One without targets has a loss of 0 nats over 0 tokens.
        max_tokens: Maximum number of tokens of a sample; a longer one is truncated from the left. The model's context
            length is also a limit.
    """
    longest = min(max_tokens or lm.context_length, lm.context_length)
    samples = [(i, sample) for i, d in enumerate(dialogues) for sample in make_samples(lm, [d], longest).samples]
    samples.sort(key=lambda pair: len(pair[1]))
    batch_tokens = min(_BATCH_TOKENS, _CPU_BATCH_TOKENS) if device_name() == "cpu" else _BATCH_TOKENS
    nats, tokens = np.zeros(len(dialogues)), np.zeros(len(dialogues), int)
    while samples:
        # The longest first. Padding is on the right, where a causal mask hides it from the tokens.
        width = len(samples[-1][1])
        count = max(1, batch_tokens // width)
        batch, samples = samples[-count:], samples[:-count]
        inputs, targets = np.zeros((2, len(batch), width), np.int32)
        is_target = np.zeros((len(batch), width), bool)
        for b, (_, sample) in enumerate(batch):
            inputs[b, : len(sample)], targets[b, : len(sample)] = sample.inputs, sample.targets
            is_target[b, : len(sample)] = sample.is_target
        losses = _cross_entropies(lm, inputs, targets, is_target.max(axis=0))
        for b, (i, _) in enumerate(batch):
            nats[i] += losses[b][is_target[b]].sum(dtype=np.float64)
            tokens[i] += is_target[b].sum()
    return [AnswerLoss(float(n), int(t)) for n, t in zip(nats, tokens, strict=True)]


def _cross_entropies(lm: LanguageModel, inputs: np.ndarray, targets: np.ndarray, has_targets: np.ndarray) -> np.ndarray:
    """Return the cross entropy of each target, given the inputs up to its position.

    Args:
        lm: The model.
        inputs: Tokens, int [B, T].
        targets: The token after each, int [B, T].
        has_targets: Whether any target of a column is needed, bool [T].

    Returns:
        float32 [B, T]; 0 in a chunk of a long sample in which no target is needed.
    """
    losses = np.zeros(inputs.shape, np.float32)
    # A long sample is processed in chunks, since the logits of all its tokens may not fit into memory.
    caches = make_prompt_cache(lm.model) if inputs.shape[1] > _BATCH_TOKENS else None
    for start in range(0, inputs.shape[1], _BATCH_TOKENS):
        chunk = slice(start, start + _BATCH_TOKENS)
        with fast_ops(lm.model):
            logits = lm.model(mx.array(inputs[:, chunk]), cache=caches).astype(mx.float32)
            if has_targets[chunk].any():
                at_target = mx.take_along_axis(logits, mx.array(targets[:, chunk])[..., None], axis=-1).squeeze(-1)
                losses[:, chunk] = np.array(mx.logsumexp(logits, axis=-1) - at_target)
        if caches is not None:
            mx.eval([cache.state for cache in caches])
    return losses
