"""Keep the keys and values of a prompt, of which the next prompt of a conversation reuses what both begin with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import mlx.nn as nn
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache

# Larger caches are not kept, because generation works on a copy of them.
_MAX_BYTES: Final = 1 << 29


class PromptCache:
    """The caches of the last prompt of one conversation, and the adapter that was attached when they were computed."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._caches: list[Any] = []
        self._adapter_state = 0

    def drop_unless(self, adapter_state: int) -> None:
        """Drop the caches if they were computed with another adapter than the next prompt will be.

        Args:
            adapter_state: `LanguageModel.adapter_state` at the next prompt.
        """
        if adapter_state != self._adapter_state:
            self._tokens, self._caches, self._adapter_state = [], [], adapter_state

    def take(self, model: nn.Module, tokens: Sequence[int]) -> tuple[list[Any], int]:
        """Return caches of the first tokens of a prompt, one per layer, and how many tokens they contain.

        Args:
            model: The model.
            tokens: Token ids of the prompt.
        """
        shared = sum(1 for _ in itertools.takewhile(lambda p: p[0] == p[1], zip(self._tokens, tokens, strict=False)))
        surplus, caches = len(self._tokens) - shared, self._caches
        self._tokens, self._caches = [], []
        # A sliding window that is full, and the state of a recurrent layer, cannot forget their last tokens.
        if not shared or (surplus and not can_trim_prompt_cache(caches)):
            return make_prompt_cache(model), 0
        if surplus:
            trim_prompt_cache(caches, surplus)
        return caches, shared

    def keep(self, tokens: Sequence[int], caches: list[Any]) -> None:
        """Keep the caches of a prompt, unless they are too large.

        Args:
            tokens: Token ids of the prompt.
            caches: Its caches, one per layer, which are not changed any more.
        """
        if sum(cache.nbytes for cache in caches) <= _MAX_BYTES:
            self._tokens, self._caches = list(tokens), caches
