"""Exact log-likelihoods of several answers to a prompt, to choose among labels without sampling.

A prompt is processed once for all answers, and so is the prefix that all prompts share (`generation.SharedPrefix`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_personal.models.generation import SharedPrefix
from mlx_personal.runtime.cpu_ops import fast_ops
from mlx_personal.runtime.device import device_name

# Limits of a batch: padded answer tokens, whose logits are computed (0.5 GB with a vocabulary of 128k), and tokens in
# its caches.
_MAX_ANSWER_TOKENS = 1024
_MAX_CACHED_TOKENS = 8192
# On a CPU, batches of 1024 tokens took 1.6 times as long as batches of 256.
_MAX_CPU_TOKENS = 256


def log_likelihoods(model: nn.Module, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> np.ndarray:
    """Return the summed log-probability of the tokens of each answer after each prompt.

    Probabilities are computed from float32 logits for any dtype of the model.

    Args:
        model: The model.
        prompts: Token ids of N prompts.
        answers: Token ids of L answers.

    Returns:
        Log-likelihoods in nats, float64 [N, L].

    Raises:
        ValueError: If a prompt or an answer has no tokens.
    """
    if not all(prompts) or not all(answers):
        raise ValueError("a prompt or an answer has no tokens")
    likelihoods = np.zeros((len(prompts), len(answers)))
    if not likelihoods.size:
        return likelihoods
    prefix = SharedPrefix(model, prompts)
    for batch in _batches(prompts, answers):
        caches, order = prefix.prefill([prompts[i] for i, _ in batch])
        pairs = [batch[index] for index in order]
        # The inputs are the prompt's last token and all but the last of the answer; the targets are the answer. No real
        # token attends to the padding after them, and the caches, which contain it, are not used again.
        width = max(len(answers[j]) for _, j in pairs)
        inputs, targets = np.zeros((2, len(pairs), width), np.int32)
        is_target = np.zeros((len(pairs), width), bool)
        for row, (i, j) in enumerate(pairs):
            length = len(answers[j])
            inputs[row, :length], targets[row, :length] = [prompts[i][-1], *answers[j][:-1]], answers[j]
            is_target[row, :length] = True
        with fast_ops(model):
            logits = model(mx.array(inputs), cache=caches).astype(mx.float32)
            target_logits = mx.take_along_axis(logits, mx.array(targets)[..., None], axis=-1).squeeze(-1)
            log_probabilities = np.array(target_logits - mx.logsumexp(logits, axis=-1), np.float64)
        for row, (i, j) in enumerate(pairs):
            likelihoods[i, j] = log_probabilities[row][is_target[row]].sum()
        mx.clear_cache()
    return likelihoods


def _batches(prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> Iterator[list[tuple[int, int]]]:
    """Yield pairs of prompt and answer indices: a prompt's pairs together, the longest prompts and answers first."""
    by_prompt = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), prompts[i], i))
    by_answer = sorted(range(len(answers)), key=lambda j: -len(answers[j]))
    batch: list[tuple[int, int]] = []
    max_answer_tokens = min(_MAX_ANSWER_TOKENS, _MAX_CPU_TOKENS) if device_name() == "cpu" else _MAX_ANSWER_TOKENS
    prompt_length = width = 0  # the longest of the batch
    for i, j in itertools.product(by_prompt, by_answer):
        prompt_length, width = max(prompt_length, len(prompts[i])), max(width, len(answers[j]))
        size = len(batch) + 1
        if batch and (size * width > max_answer_tokens or size * (prompt_length + width) > _MAX_CACHED_TOKENS):
            yield batch
            batch, prompt_length, width = [], len(prompts[i]), len(answers[j])
        batch.append((i, j))
    yield batch
