"""The model that a process keeps from one job to the next."""

from __future__ import annotations

import functools

from mlx_personal.models.language_model import LanguageModel, load_language_model


@functools.lru_cache(maxsize=1)
def cached_model(path: str) -> LanguageModel:
    """The model in this folder, loaded once for as long as no other is asked for; whoever attaches an adapter detaches
    it."""
    return load_language_model(path)
