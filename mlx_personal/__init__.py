"""mlx-personal: a Mac learns from its owner's own conversations, privately, on MLX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports
from mlx_personal.runtime import blas_hook

# A BLAS that is loaded after mlx.core takes no effect.
blas_hook.install()

if TYPE_CHECKING:
    from mlx_personal.dialogue import Dialogue, Message
    from mlx_personal.errors import UserError
    from mlx_personal.models import LanguageModel, load_language_model
    from mlx_personal.personalizer import Personalizer
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "Dialogue": "dialogue",
            "LanguageModel": "models",
            "Message": "dialogue",
            "Personalizer": "personalizer",
            "UserError": "errors",
            "load_language_model": "models",
        },
    )

__version__ = "0.1.0"
__all__ = ["Dialogue", "LanguageModel", "Message", "Personalizer", "UserError", "load_language_model"]
