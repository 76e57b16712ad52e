"""Memory: the nearest kept dialogues are put before a question as examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.memory.config import MemoryConfig
    from mlx_personal.memory.memory import (
        Memory,
        MemoryEntry,
        RetrievedExample,
        embed_questions,
        example_messages,
        first_question,
        insert_examples,
    )
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "MemoryConfig": "config",
            "Memory": "memory",
            "MemoryEntry": "memory",
            "RetrievedExample": "memory",
            "embed_questions": "memory",
            "example_messages": "memory",
            "first_question": "memory",
            "insert_examples": "memory",
        },
    )

__all__ = [
    "Memory",
    "MemoryConfig",
    "MemoryEntry",
    "RetrievedExample",
    "embed_questions",
    "example_messages",
    "first_question",
    "insert_examples",
]
