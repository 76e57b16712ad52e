"""Generate answers with mlx-lm's layers and caches: many prompts in one continuous batch, or one prompt as a stream.

The prefix that all prompts share is computed once, and so is a prompt that occurs several times: its copies start from
one cache. Finished sequences leave the batch, and waiting ones replace them within the limits of memory.

mlx-lm's own BatchGenerator is not used: it recomputes every copy of a prompt, passes each sequence's log-probabilities
to Python at every token, and changes the wired memory limit, which has crashed whole Macs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_personal.models.lexical_constraints import LexicalConstraint, TokenBonuses
from mlx_personal.models.mlx_lm_compat import cache_bytes, repeat_cache, supports_padding
from mlx_personal.models.prompt_cache import PromptCache
from mlx_personal.models.sampling import SamplingParams
from mlx_personal.models.stop_strings import StopStrings
from mlx_personal.models.token_sampling import penalize_repetition, recent_tokens, sample_tokens
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.runtime.cpu_ops import fast_ops

# Limits of a batch: bytes of its caches, number of logits of a step (64 MB), and number of sequences. More sequences
# gain nothing, since all are padded to the longest: the demo's rewrites took 1.4 times as long with 512 on a CPU.
_MAX_CACHE_BYTES = 1 << 31
_MAX_LOGITS = 1 << 24
_MAX_BATCH_SIZE = 96
# The first batch is small, because it measures how much memory a sequence needs.
_FIRST_BATCH_SIZE, _FIRST_BATCH_TOKENS = 32, 16384
# Number of padded prompt tokens that are processed at once.
_PREFILL_TOKENS = 2048
# Number of tokens by which a cache grows; mlx-lm's 256 are several times as many as a rewrite needs.
_CACHE_GROWTH_TOKENS = 32
# A batch is rebuilt, which copies its caches, when 1 / 4 of its sequences are finished or missing.
_REBUILD_DENOMINATOR = 4

_DRAW_LEVELS = 1 << 23

# MLX's stubs give this function no types.
_async_eval: Callable[..., None] = mx.async_eval


def generate(
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    prompts: Sequence[list[int]],
    max_tokens: Sequence[int],
    sampling: SamplingParams,
    seed: int,
    end_token_ids: Collection[int],
    on_progress: Progress | None = None,
    constraints: Sequence[LexicalConstraint] = (),
) -> list[list[int]]:
    """Generate the token ids of an answer to each prompt, without its end token.

    Args:
        model: The model.
        tokenizer: Its tokenizer, which decodes the tokens to find the stop strings.
        prompts: Token ids of the prompts.
        max_tokens: Maximum number of tokens of each answer.
        sampling: How tokens are sampled. An answer ends with the token that completes a stop string.
        seed: Random seed of the sampling; each prompt has its own stream of random numbers.
        end_token_ids: Tokens that end an answer.
        on_progress: Receives an event of stage `generation` for each finished answer.
        constraints: For each prompt the tokens that its answer should contain; none if empty.

    Returns:
        The answers, in the order of the prompts.

    Raises:
        ValueError: If a prompt has no tokens, or a limit is below 1.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    finished_count = 0
    stops = StopStrings(sampling.stop, tokenizer.decode) if sampling.stop else None
    for index, token, finished in _generate_tokens(
        model, prompts, max_tokens, sampling, seed, end_token_ids, stops, constraints
    ):
        if token is not None:
            answers[index].append(token)
        if finished:
            finished_count += 1
            if on_progress is not None:
                on_progress(ProgressEvent("generation", finished_count, len(prompts)))
    return answers


def stream(
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    prompt: list[int],
    max_tokens: int,
    sampling: SamplingParams,
    seed: int,
    end_token_ids: Collection[int],
    hidden_token_ids: Collection[int] = (),
    prompt_cache: PromptCache | None = None,
) -> Iterator[str]:
    """Generate the answer to one prompt in pieces of text.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        prompt: Token ids of the prompt.
        max_tokens: Maximum number of tokens of the answer.
        sampling: How tokens are sampled. No part of a stop string is ever yielded.
        seed: As in `generate`.
        end_token_ids: As in `generate`.
        hidden_token_ids: Tokens that are left out of the text.
        prompt_cache: Keeps what was computed for this prompt, and reuses what is kept of an earlier one.

    Yields:
        The pieces of the answer.
    """

    def pieces() -> Iterator[str]:
        detokenizer = tokenizer.detokenizer
        for _, token, _ in _generate_tokens(
            model, [prompt], [max_tokens], sampling, seed, end_token_ids, prompt_cache=prompt_cache
        ):
            if token is not None and token not in hidden_token_ids:
                detokenizer.add_token(token)
                yield detokenizer.last_segment
        detokenizer.finalize()
        yield detokenizer.last_segment

    return StopStrings(sampling.stop, tokenizer.decode).stream(pieces())


class SharedPrefix:
    """Prompt caches of the prefix that all prompts share, to which the rest of each prompt is appended.

    Args:
        model: The model.
        prompts: Token ids of all prompts.
        prompt_cache: Keeps these caches, and reuses what is kept of an earlier prompt.
    """

    def __init__(self, model: nn.Module, prompts: Sequence[list[int]], prompt_cache: PromptCache | None = None):
        self._model = model
        first, last = min(prompts), max(prompts)  # all prompts in between share what these two share
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
        self._length = min(shared, min(map(len, prompts)) - 1)
        prefix = first[: self._length]
        caches, known = (make_prompt_cache(model), 0) if prompt_cache is None else prompt_cache.take(model, prefix)
        self._caches: list[Any] = caches
        self._supports_padding = all(map(supports_padding, self._caches))
        _fill_caches(model, mx.array([prefix[known:]]), self._caches)
        if prompt_cache is not None:
            prompt_cache.keep(prefix, self._caches)

    def release(self) -> None:
        """Free the memory of the caches; `prefill` cannot be called afterwards."""
        self._caches = []

    def prefill(self, prompts: Sequence[list[int]]) -> tuple[list[Any], list[int]]:
        """Process all tokens but the last of some of the prompts.

        Args:
            prompts: Token ids of the prompts.

        Returns:
            The batch caches, one per layer, and the index of the prompt of each of their rows.
        """
        indices: dict[tuple[int, ...], list[int]] = {}
        for index, prompt in enumerate(prompts):
            indices.setdefault(tuple(prompt), []).append(index)
        distinct = sorted(indices, key=len, reverse=True)
        caches: list[Any] = []
        for group in _prefill_groups([len(prompt) - 1 - self._length for prompt in distinct], self._supports_padding):
            group_caches = self._prefill_suffixes([list(distinct[i][self._length : -1]) for i in group])
            for cache in group_caches:
                cache.filter([row for row, i in enumerate(group) for _ in indices[distinct[i]]])
            caches = _concatenate_caches(caches, group_caches)
        return caches, [index for prompt in distinct for index in indices[prompt]]

    def _prefill_suffixes(self, suffixes: Sequence[list[int]]) -> list[Any]:
        caches = [repeat_cache(cache, len(suffixes), _CACHE_GROWTH_TOKENS) for cache in self._caches]
        longest = max(map(len, suffixes))
        padding = [longest - len(suffix) for suffix in suffixes]
        if longest == 0:
            return caches
        if any(padding):
            for cache in caches:
                cache.prepare(lengths=[len(suffix) for suffix in suffixes], right_padding=padding)
        tokens = mx.array([s + [0] * pad for s, pad in zip(suffixes, padding, strict=True)])
        _fill_caches(self._model, tokens, caches)
        if any(padding):
            for cache in caches:
                cache.finalize()
        return caches


@dataclass
class _Sequence:
    """A prompt and the state of its generation.

    Attributes:
        index: Index of the prompt.
        prompt: Token ids of the prompt.
        limit: Maximum number of new tokens.
        draws: Random numbers in [0, 1), one per token.
        constraint: Tokens that the answer should contain, if any.
        drawn: Number of draws that have been used.
        generated: The generated tokens, end token included.
        finished: Whether the answer is complete.
    """

    index: int
    prompt: list[int]
    limit: int
    draws: np.ndarray
    constraint: LexicalConstraint | None = None
    drawn: int = 0
    generated: list[int] = field(default_factory=list)
    finished: bool = False

    def draw(self) -> float:
        self.drawn += 1
        # A batch computes one more token than it returns, whose draw is not used.
        return float(self.draws[min(self.drawn, len(self.draws)) - 1])


def _generate_tokens(
    model: nn.Module,
    prompts: Sequence[list[int]],
    max_tokens: Sequence[int],
    sampling: SamplingParams,
    seed: int,
    end_token_ids: Collection[int],
    stops: StopStrings | None = None,
    constraints: Sequence[LexicalConstraint] = (),
    prompt_cache: PromptCache | None = None,
) -> Iterator[tuple[int, int | None, bool]]:
    """Yield (prompt index, token or None for the end token, whether the answer is finished) as tokens are generated."""
    if not prompts:
        return
    if not all(prompts) or min(max_tokens) < 1:
        raise ValueError("a prompt has no tokens, or a limit is below 1")
    # The longest first, so that none of them is left for the end; identical prompts next to each other.
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]) - max_tokens[i], prompts[i], i))
    waiting = [
        _Sequence(
            i,
            list(prompts[i]),
            max_tokens[i],
            _random_draws(seed, i, max_tokens[i], sampling),
            constraints[i] if constraints else None,
        )
        for i in order
    ]
    prefix = SharedPrefix(model, prompts, prompt_cache)
    batch = _Batch(model, sampling)
    first_tokens = len(waiting[0].prompt) + waiting[0].limit
    max_batch_size = max(1, min(_FIRST_BATCH_SIZE, _FIRST_BATCH_TOKENS // first_tokens))
    while waiting or batch.sequences:
        free = max_batch_size - len(batch.sequences)
        if waiting and free * _REBUILD_DENOMINATOR >= max_batch_size:
            sequences, waiting = waiting[:free], waiting[free:]
            caches, indices = prefix.prefill([sequence.prompt for sequence in sequences])
            batch.extend(caches, [sequences[index] for index in indices])
            max_batch_size = batch.max_size()
            if not waiting:
                prefix.release()
        for sequence, token in batch.step():
            sequence.generated.append(token)
            ended = token in end_token_ids
            stopped = stops is not None and not ended and stops.are_complete(sequence.generated)
            sequence.finished = ended or stopped or len(sequence.generated) >= sequence.limit
            yield sequence.index, None if ended else token, sequence.finished
        unfinished = sum(not sequence.finished for sequence in batch.sequences)
        if unfinished * _REBUILD_DENOMINATOR <= len(batch.sequences) * (_REBUILD_DENOMINATOR - 1):
            batch.drop_finished()


def _random_draws(seed: int, index: int, count: int, sampling: SamplingParams) -> np.ndarray:
    """Return a prompt's random numbers, which are independent of other prompts and of the order of computation."""
    if sampling.is_greedy:
        return np.zeros(1, np.float32)
    return (np.random.default_rng([index, seed]).integers(_DRAW_LEVELS, size=count) / _DRAW_LEVELS).astype(np.float32)


class _Batch:
    """Sequences that are decoded together; the next tokens are computed while Python processes those of a step."""

    def __init__(self, model: nn.Module, sampling: SamplingParams):
        self.sequences: list[_Sequence] = []
        self._model = model
        self._sampling = sampling
        self._penalizes = sampling.repetition_penalty != 1
        self._caches: list[Any] = []
        self._tokens = mx.array([], mx.uint32)  # the latest token of each sequence, not yet returned by `step`
        # The tokens of each sequence that are penalized in the next step; None without a repetition penalty.
        self._recent: mx.array | None = None
        # The bonuses of each sequence's next token; None without constraints.
        self._bonuses: TokenBonuses | None = None
        self._vocabulary_size = 1
        self._sequence_bytes = 0.0

    def extend(self, caches: list[Any], sequences: Sequence[_Sequence]) -> None:
        """Add sequences whose prompts without their last tokens have been processed into `caches`."""
        self.drop_finished()
        if not self._sequence_bytes:
            # The first sequences are the longest ones.
            longest = max(len(sequence.prompt) + sequence.limit for sequence in sequences)
            self._sequence_bytes = sum(cache_bytes(cache, longest) for cache in caches) / len(sequences)
        last_tokens = mx.array([sequence.prompt[-1] for sequence in sequences], mx.uint32)
        recent = recent_tokens([sequence.prompt for sequence in sequences]) if self._penalizes else None
        constraints = [sequence.constraint for sequence in sequences if sequence.constraint is not None]
        bonuses = TokenBonuses.of(constraints) if constraints else None
        tokens, recent, bonuses = self._next_tokens(last_tokens, caches, sequences, recent, bonuses)
        self._caches = _concatenate_caches(self._caches, caches)
        self._tokens = mx.concatenate([self._tokens, tokens])
        if recent is not None:
            self._recent = recent if self._recent is None else mx.concatenate([self._recent, recent])
        if bonuses is not None:
            self._bonuses = bonuses if self._bonuses is None else self._bonuses.concatenate(bonuses)
        self.sequences += sequences
        mx.eval(self._tokens)
        mx.clear_cache()

    def max_size(self) -> int:
        """Return the maximum number of sequences, within the limits of memory."""
        by_memory = _MAX_CACHE_BYTES // max(self._sequence_bytes, 1)
        return int(max(1, min(_MAX_BATCH_SIZE, _MAX_LOGITS // self._vocabulary_size, by_memory)))

    def step(self) -> list[tuple[_Sequence, int]]:
        """Return the next token of each sequence that is not finished."""
        next_tokens, self._recent, self._bonuses = self._next_tokens(
            self._tokens, self._caches, self.sequences, self._recent, self._bonuses
        )
        _async_eval(next_tokens)
        tokens: Any = self._tokens.tolist()
        self._tokens = next_tokens
        return [(seq, token) for seq, token in zip(self.sequences, tokens, strict=True) if not seq.finished]

    def drop_finished(self) -> None:
        """Remove the finished sequences and their rows of the caches."""
        keep = [row for row, sequence in enumerate(self.sequences) if not sequence.finished]
        if len(keep) == len(self.sequences):
            return
        self.sequences = [self.sequences[row] for row in keep]
        self._tokens = self._tokens[mx.array(keep, mx.int32)]
        if self._recent is not None:
            self._recent = self._recent[mx.array(keep, mx.int32)]
        if self._bonuses is not None:
            self._bonuses = self._bonuses.filter(mx.array(keep, mx.int32))
        if keep:
            for cache in self._caches:
                cache.filter(keep)
        else:
            self._caches = []

    def _next_tokens(
        self,
        tokens: mx.array,
        caches: list[Any],
        sequences: Sequence[_Sequence],
        recent: mx.array | None,
        bonuses: TokenBonuses | None,
    ) -> tuple[mx.array, mx.array | None, TokenBonuses | None]:
        """Return the tokens after these [N], and the penalized tokens [N, R] and the bonuses of the step after it."""
        with fast_ops(self._model):
            logits = self._model(tokens[:, None], cache=caches)[:, -1]
        self._vocabulary_size = logits.shape[-1]
        if recent is not None:
            logits = penalize_repetition(logits, recent, self._sampling.repetition_penalty)
        if bonuses is not None:
            logits = bonuses.add_to(logits)
        if self._sampling.is_greedy:
            next_tokens = mx.argmax(logits, axis=-1)
        else:
            draws = mx.array([sequence.draw() for sequence in sequences])
            next_tokens = sample_tokens(logits, self._sampling, draws)
        if recent is not None:
            recent = mx.concatenate([recent[:, 1:], next_tokens[:, None]], axis=-1)
        return next_tokens, recent, None if bonuses is None else bonuses.without(next_tokens)


def _prefill_groups(lengths: Sequence[int], supports_padding: bool) -> Iterator[list[int]]:
    """Yield groups of indices, given descending lengths: of at most `_PREFILL_TOKENS` padded tokens, or of one index.

    If padding is not supported, all lengths of a group are equal. Length 0 is never grouped with others.
    """
    group: list[int] = []
    for index, length in enumerate(lengths):
        differs = bool(group) and length < lengths[group[0]]
        is_full = (len(group) + 1) * lengths[group[0]] > _PREFILL_TOKENS if group else False
        if group and (is_full or (differs and not (supports_padding and length))):
            yield group
            group = []
        group.append(index)
    yield group


def _fill_caches(model: nn.Module, tokens: mx.array, caches: list[Any]) -> None:
    """Process tokens [N, T] into caches without evaluating their logits."""
    for start in range(0, tokens.shape[1], _PREFILL_TOKENS):
        with fast_ops(model):
            model(tokens[:, start : start + _PREFILL_TOKENS], cache=caches)
        mx.eval([cache.state for cache in caches])
        mx.clear_cache()


def _concatenate_caches(caches: list[Any], others: list[Any]) -> list[Any]:
    """Append the rows of other caches, layer by layer, and return the caches."""
    for cache, other in zip(caches, others, strict=False):
        cache.extend(other)
    return caches or others
