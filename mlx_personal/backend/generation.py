"""Generation through mlx-lm's BatchGenerator: many prompts in one continuous batch, or one prompt as a stream.

Of mlx-lm's ways to generate, this is the one that takes a sampler per call and leaves the memory limits alone once
its own change of the wired limit (which has brought whole Macs down) is taken out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.sample_utils import make_sampler
from mlx_lm.tokenizer_utils import TokenizerWrapper

# `mlx_lm.generate` is a function as an attribute of its package, and a module only by its import name.
_mlx_lm_generate: Any = importlib.import_module("mlx_lm.generate")
_mlx_lm_generate.maybe_set_recommended_wired_limit = lambda: None


def generate(
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    prompts: Sequence[list[int]],
    max_tokens: Sequence[int],
    temperature: float,
    seed: int,
    on_done: Callable[[int, int], None] | None = None,
) -> list[str]:
    """See `LanguageModel.generate`; `max_tokens` has one number for each prompt."""
    answers: list[list[int]] = [[] for _ in prompts]
    done = 0
    for index, token, finished in _tokens(model, tokenizer, prompts, max_tokens, temperature, seed):
        if token is not None:
            answers[index].append(token)
        if finished:
            done += 1
            if on_done is not None:
                on_done(done, len(prompts))
    return [tokenizer.decode(answer).strip() for answer in answers]


def stream(
    model: nn.Module, tokenizer: TokenizerWrapper, prompt: list[int], max_tokens: int, temperature: float, seed: int
) -> Iterator[str]:
    """See `LanguageModel.stream`."""
    detokenizer = tokenizer.detokenizer
    detokenizer.reset()
    for _, token, _ in _tokens(model, tokenizer, [prompt], [max_tokens], temperature, seed):
        if token is not None:
            detokenizer.add_token(token)
            yield detokenizer.last_segment
    detokenizer.finalize()
    yield detokenizer.last_segment


def _tokens(
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    prompts: Sequence[list[int]],
    max_tokens: Sequence[int],
    temperature: float,
    seed: int,
) -> Iterator[tuple[int, int | None, bool]]:
    """(prompt's index, token or None for the end token, whether this prompt is finished), as they come."""
    if not prompts:
        return
    mx.random.seed(seed)
    batch = _mlx_lm_generate.BatchGenerator(
        model,
        stop_tokens=[[token] for token in tokenizer.eos_token_ids],
        sampler=make_sampler(temp=temperature),
    )
    try:
        index = {uid: i for i, uid in enumerate(batch.insert([list(p) for p in prompts], list(max_tokens)))}
        while responses := batch.next_generated():
            for response in responses:
                token = None if response.finish_reason == "stop" else response.token
                yield index[response.uid], token, response.finish_reason is not None
    finally:
        batch.close()
