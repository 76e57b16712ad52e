"""Language models: load them, tokenize, generate, score answers, and attach adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.models.language_model import LanguageModel
    from mlx_personal.models.loading import load_language_model
    from mlx_personal.models.sampling import SamplingParams
else:
    # Lazy, because a BLAS must be loaded before anything imports mlx.core.
    __getattr__ = lazy_exports(
        __name__,
        {"LanguageModel": "language_model", "SamplingParams": "sampling", "load_language_model": "loading"},
    )

__all__ = ["LanguageModel", "SamplingParams", "load_language_model"]
