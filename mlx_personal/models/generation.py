"""Generation on mlx-lm's layers and caches: many prompts in one continuous batch, or one prompt as a stream.

What all prompts begin with is computed once, and so is a prompt that is asked for several times: its copies start from
one cache. Rows that are finished leave the batch, waiting ones take their place, as many as memory has room for.

mlx-lm's own BatchGenerator is not used. It computes every copy of a prompt anew, hands each row's log-probabilities to
Python at every token, and changes the wired memory limit, which has brought whole Macs down.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.runtime.cpu_ops import fast

# What bounds a batch: the bytes of its caches, the numbers of a step's logits (64 MB), and that more rows than these
# gain nothing, since all are padded to the longest (of the demo's rewrites, 512 took 1.4 times as long on a CPU).
_CACHE_BYTES = 1 << 31
_LOGITS = 1 << 24
_MOST_ROWS = 96
# The first rows tell what a row takes; only then are more of them computed together.
_FIRST_ROWS, _FIRST_TOKENS = 32, 16384
# Padded tokens that go through the model at once while prompts are read.
_PREFILL_TOKENS = 2048
# Tokens by which a cache grows; mlx-lm's 256 are several times what a rewrite needs.
_CACHE_STEP = 32
# Share of a batch's rows that may be finished, or missing, before it is made anew: doing so copies its caches.
_SLACK = 4

_DRAWS = 1 << 23


def generate(
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    prompts: Sequence[list[int]],
    max_tokens: Sequence[int],
    temperature: float,
    seed: int,
    on_progress: Progress | None = None,
) -> list[list[int]]:
    """The tokens of each answer, its end token left out; else as `LanguageModel.generate`, with a limit a prompt."""
    answers: list[list[int]] = [[] for _ in prompts]
    done = 0
    for index, token, finished in _tokens(model, tokenizer, prompts, max_tokens, temperature, seed):
        if token is not None:
            answers[index].append(token)
        if finished:
            done += 1
            if on_progress is not None:
                on_progress(ProgressEvent("generation", done, len(prompts)))
    return answers


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


@dataclass
class _Row:
    """One prompt on its way: its place among the prompts, its draws from [0, 1), one a token, and how many are used."""

    index: int
    prompt: list[int]
    limit: int
    draws: np.ndarray
    drawn: int = 0
    read: int = 0
    finished: bool = False

    def draw(self) -> float:
        self.drawn += 1
        # A batch computes one token more than it reads: nobody sees what is drawn for it.
        return float(self.draws[min(self.drawn, len(self.draws)) - 1])


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
    if not all(prompts) or min(max_tokens) < 1:
        raise ValueError("a prompt without tokens, or a limit below one")
    ends = set(tokenizer.eos_token_ids)
    # The longest first, so that they do not end alone; equal prompts side by side.
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]) - max_tokens[i], prompts[i], i))
    waiting = [_Row(i, list(prompts[i]), max_tokens[i], _draws(seed, i, max_tokens[i], temperature)) for i in order]
    prefix = Prefix(model, prompts)
    batch = _Batch(model, temperature)
    most = max(1, min(_FIRST_ROWS, _FIRST_TOKENS // (len(waiting[0].prompt) + waiting[0].limit)))
    while waiting or batch.rows:
        room = most - len(batch.rows)
        if waiting and room * _SLACK >= most:
            rows, waiting = waiting[:room], waiting[room:]
            caches, places = prefix.read([row.prompt for row in rows])
            batch.extend(caches, [rows[place] for place in places])
            most = batch.most_rows()
            if not waiting:
                prefix.forget()
        for row, token in batch.step():
            row.read += 1
            row.finished = token in ends or row.read >= row.limit
            yield row.index, None if token in ends else token, row.finished
        unfinished = sum(not row.finished for row in batch.rows)
        if unfinished * _SLACK <= len(batch.rows) * (_SLACK - 1):
            batch.drop_finished()


def _draws(seed: int, index: int, count: int, temperature: float) -> np.ndarray:
    """A prompt's own draws: they depend on no other prompt, nor on when it is computed."""
    if temperature == 0:
        return np.zeros(1, np.float32)
    return (np.random.default_rng([index, seed]).integers(_DRAWS, size=count) / _DRAWS).astype(np.float32)


class Prefix:
    """The caches of what all prompts begin with, their last tokens left out, from which each of them is read."""

    def __init__(self, model: nn.Module, prompts: Sequence[list[int]]):
        self._model = model
        first, last = min(prompts), max(prompts)  # what these two share, all between them share
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
        self._length = min(shared, min(map(len, prompts)) - 1)
        self._caches = make_prompt_cache(model)
        # mlx-lm's recurrent layers do not all pass over padding.
        self._pads = all(type(cache) in (KVCache, RotatingKVCache) for cache in self._caches)
        _read(model, mx.array([first[: self._length]]), self._caches)

    def forget(self) -> None:
        """Frees the memory; nothing can be read any more."""
        self._caches = []

    def read(self, prompts: Sequence[list[int]]) -> tuple[list[Any], list[int]]:
        """Caches of some of the prompts but for the last token of each; their places here, in the caches' order."""
        asked: dict[tuple[int, ...], list[int]] = {}
        for number, prompt in enumerate(prompts):
            asked.setdefault(tuple(prompt), []).append(number)
        distinct = sorted(asked, key=len, reverse=True)
        found: list[Any] = []
        for group in _groups([len(prompt) - 1 - self._length for prompt in distinct], self._pads):
            read = self._read([list(distinct[i][self._length : -1]) for i in group])
            for cache in read:
                cache.filter([place for place, i in enumerate(group) for _ in asked[distinct[i]]])
            found = _joined(found, read)
        return found, [number for prompt in distinct for number in asked[prompt]]

    def _read(self, suffixes: Sequence[list[int]]) -> list[Any]:
        caches = [_copies(cache, len(suffixes)) for cache in self._caches]
        longest = max(map(len, suffixes))
        padding = [longest - len(suffix) for suffix in suffixes]
        if longest == 0:
            return caches
        if any(padding):
            for cache in caches:
                cache.prepare(lengths=[len(suffix) for suffix in suffixes], right_padding=padding)
        _read(self._model, mx.array([s + [0] * pad for s, pad in zip(suffixes, padding, strict=True)]), caches)
        if any(padding):
            for cache in caches:
                cache.finalize()
        return caches


class _Batch:
    """Rows that are decoded together. While Python reads one step's tokens, the next ones are already computed."""

    def __init__(self, model: nn.Module, temperature: float):
        self.rows: list[_Row] = []
        self._model = model
        self._temperature = temperature
        self._caches: list[Any] = []
        self._tokens = mx.array([], mx.uint32)  # the rows' latest ones, not read yet
        self._vocabulary = 1
        self._row_bytes = 0.0

    def extend(self, caches: list[Any], rows: Sequence[_Row]) -> None:
        """Takes in rows whose prompts but for the last token are in `caches`."""
        self.drop_finished()
        if not self._row_bytes:
            # The first rows are the longest ones.
            longest = max(len(row.prompt) + row.limit for row in rows)
            self._row_bytes = sum(_bytes_at(cache, longest) for cache in caches) / len(rows)
        tokens = self._next(mx.array([row.prompt[-1] for row in rows], mx.uint32), caches, rows)
        self._caches = _joined(self._caches, caches)
        self._tokens = mx.concatenate([self._tokens, tokens])
        self.rows += rows
        mx.eval(self._tokens)
        mx.clear_cache()

    def most_rows(self) -> int:
        """How many rows memory has room for."""
        return int(max(1, min(_MOST_ROWS, _LOGITS // self._vocabulary, _CACHE_BYTES // max(self._row_bytes, 1))))

    def step(self) -> list[tuple[_Row, int]]:
        """The next token of each row that is not finished."""
        following = self._next(self._tokens, self._caches, self.rows)
        mx.async_eval(following)
        tokens: Any = self._tokens.tolist()
        self._tokens = following
        return [(row, token) for row, token in zip(self.rows, tokens, strict=True) if not row.finished]

    def drop_finished(self) -> None:
        keep = [place for place, row in enumerate(self.rows) if not row.finished]
        if len(keep) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in keep]
        self._tokens = self._tokens[mx.array(keep, mx.int32)]
        if keep:
            for cache in self._caches:
                cache.filter(keep)
        else:
            self._caches = []

    def _next(self, tokens: mx.array, caches: list[Any], rows: Sequence[_Row]) -> mx.array:
        with fast(self._model):
            logits = self._model(tokens[:, None], cache=caches)[:, -1]
        self._vocabulary = logits.shape[-1]
        if self._temperature == 0:
            return mx.argmax(logits, axis=-1)
        return _sampled(logits, self._temperature, mx.array([row.draw() for row in rows]))


def _sampled(logits: mx.array, temperature: float, draws: mx.array) -> mx.array:
    """For each row of logits [N, V] the token at which the probabilities, added up, first exceed its draw [N]."""
    reached = mx.cumsum(mx.softmax(logits.astype(mx.float32) / temperature, axis=-1), axis=-1)
    # A draw is at most 1 - 2^-23, so that even rounded the product stays below the last sum.
    return mx.argmax(reached > draws[:, None] * reached[:, -1:], axis=-1)


def _groups(lengths: Sequence[int], pads: bool) -> Iterator[list[int]]:
    """Places of falling lengths in groups of at most `_PREFILL_TOKENS` padded tokens, or of one.

    A group is of one length unless it `pads`, and never holds nothing beside something.
    """
    group: list[int] = []
    for place, length in enumerate(lengths):
        differs = bool(group) and length < lengths[group[0]]
        if group and ((len(group) + 1) * lengths[group[0]] > _PREFILL_TOKENS or (differs and not (pads and length))):
            yield group
            group = []
        group.append(place)
    yield group


def _read(model: nn.Module, tokens: mx.array, caches: list[Any]) -> None:
    """Puts tokens [N, T] into caches; logits are never computed, since nobody asks for them."""
    for start in range(0, tokens.shape[1], _PREFILL_TOKENS):
        with fast(model):
            model(tokens[:, start : start + _PREFILL_TOKENS], cache=caches)
        mx.eval([cache.state for cache in caches])
        mx.clear_cache()


def _copies(cache: Any, count: int) -> Any:
    """A cache of `count` equal rows, from one for a single prompt."""
    copied = cache.merge([cache])
    copied.filter([0] * count)
    if hasattr(copied, "step"):
        copied.step = _CACHE_STEP
    return copied


def _bytes_at(cache: Any, tokens: int) -> float:
    """What a cache takes once its rows are this long; the state of a recurrent layer does not grow."""
    keys = getattr(cache, "keys", None)
    return cache.nbytes if keys is None else cache.nbytes * tokens / keys.shape[2]


def _joined(caches: list[Any], more: list[Any]) -> list[Any]:
    """The rows of both, in the first one's caches."""
    for cache, other in zip(caches, more, strict=False):
        cache.extend(other)
    return caches or more
