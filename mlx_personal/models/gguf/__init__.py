"""Models in GGUF files, the format of llama.cpp, Ollama and LM Studio: read what they say, convert them for mlx-lm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.models.gguf.architectures import architecture_of
    from mlx_personal.models.gguf.convert import convert_gguf, default_precision
    from mlx_personal.models.gguf.file import GGUFFile, file_hash, read_gguf
    from mlx_personal.models.gguf.weights import Precision
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "GGUFFile": "file",
            "Precision": "weights",
            "architecture_of": "architectures",
            "convert_gguf": "convert",
            "default_precision": "convert",
            "file_hash": "file",
            "read_gguf": "file",
        },
    )

__all__ = [
    "GGUFFile",
    "Precision",
    "architecture_of",
    "convert_gguf",
    "default_precision",
    "file_hash",
    "read_gguf",
]
