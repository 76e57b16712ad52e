"""mlx-personal: a Mac learns from its owner's own conversations, privately, on MLX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mlx_personal.runtime import blas

# Before any module of the package imports mlx.core: a BLAS that comes later takes no effect.
blas.preload()

if TYPE_CHECKING:
    from mlx_personal.dialogue import Dialogue, Message
    from mlx_personal.errors import UserError
    from mlx_personal.models import LanguageModel, load_language_model
    from mlx_personal.personalizer import Personalizer

__version__ = "0.1.0"
_HOMES = {
    "Dialogue": "dialogue",
    "LanguageModel": "models",
    "Message": "dialogue",
    "Personalizer": "personalizer",
    "UserError": "errors",
    "load_language_model": "models",
}
__all__ = ["Dialogue", "LanguageModel", "Message", "Personalizer", "UserError", "load_language_model"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `mlx-personal --help` does not pay for importing transformers.
    if name in _HOMES:
        return getattr(importlib.import_module(f"mlx_personal.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'mlx_personal' has no attribute {name!r}")
