"""How likely a model finds each of several answers to a prompt: exact, for choosing among labels; nothing is sampled.

A prompt is read once, whatever the number of answers, and so is what all prompts begin with (`generation.Prefix`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_personal.models.generation import Prefix
from mlx_personal.runtime.cpu_ops import fast

# What bounds a batch: padded tokens of the answers, whose logits are computed (0.5 GB at a vocabulary of 128k), and
# tokens that its caches hold.
_ANSWER_TOKENS = 1024
_CACHED_TOKENS = 8192


def log_likelihoods(model: nn.Module, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> np.ndarray:
    """The summed log-probability of the tokens of each of L answers after each of N prompts, float64 [N, L], in nats.

    Probabilities are of float32 logits, whatever the model's type. ValueError for a prompt or an answer without tokens.
    """
    if not all(prompts) or not all(answers):
        raise ValueError("a prompt or an answer without tokens")
    found = np.zeros((len(prompts), len(answers)))
    if not found.size:
        return found
    prefix = Prefix(model, prompts)
    for batch in _batches(prompts, answers):
        caches, places = prefix.read([prompts[i] for i, _ in batch])
        rows = [batch[place] for place in places]
        # All but an answer's last token go in, behind the prompt's last one, and the answer is what comes out. Padding
        # stands behind them, where no real token sees it; the caches, which do see it, are not used again.
        width = max(len(answers[j]) for _, j in rows)
        inputs, targets = np.zeros((2, len(rows), width), np.int32)
        real = np.zeros((len(rows), width), bool)
        for row, (i, j) in enumerate(rows):
            length = len(answers[j])
            inputs[row, :length], targets[row, :length] = [prompts[i][-1], *answers[j][:-1]], answers[j]
            real[row, :length] = True
        with fast(model):
            logits = model(mx.array(inputs), cache=caches).astype(mx.float32)
            at_target = mx.take_along_axis(logits, mx.array(targets)[..., None], axis=-1).squeeze(-1)
            logs = np.array(at_target - mx.logsumexp(logits, axis=-1), np.float64)
        for row, (i, j) in enumerate(rows):
            found[i, j] = logs[row][real[row]].sum()
        mx.clear_cache()
    return found


def _batches(prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> Iterator[list[tuple[int, int]]]:
    """Pairs of (prompt's index, answer's index): a prompt's side by side, the longest prompts and answers first."""
    by_prompt = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), prompts[i], i))
    by_answer = sorted(range(len(answers)), key=lambda j: -len(answers[j]))
    batch: list[tuple[int, int]] = []
    width = len(answers[by_answer[0]])
    cached = len(prompts[by_prompt[0]]) + width
    most = max(1, min(_ANSWER_TOKENS // width, _CACHED_TOKENS // cached))
    for pair in itertools.product(by_prompt, by_answer):
        if len(batch) == most:
            yield batch
            batch = []
        batch.append(pair)
    yield batch
