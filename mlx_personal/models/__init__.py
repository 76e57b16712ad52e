"""The only room that knows devices, dtypes and BLAS libraries, and the one place that loads a model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_personal.models.language_model import LanguageModel, load_language_model

__all__ = ["LanguageModel", "load_language_model"]


def __getattr__(name: str) -> Any:
    # Lazy: `mlx_personal/__init__` imports `backend.blas` before mlx.core may be imported by anything.
    if name in __all__:
        return getattr(importlib.import_module("mlx_personal.models.language_model"), name)
    raise AttributeError(f"module 'mlx_personal.models' has no attribute {name!r}")
