"""Importers: read the dialogues of chat apps' exports, agents' sessions and training sets, in any known format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.importers.conversation import Conversation, Skipped, Turn
    from mlx_personal.importers.importer import Importer
    from mlx_personal.importers.reading import ImportedDialogue, load_dialogues, read_dialogues, read_imports
    from mlx_personal.importers.registry import importers

__getattr__ = lazy_exports(
    __name__,
    {
        "Conversation": "conversation",
        "ImportedDialogue": "reading",
        "Importer": "importer",
        "Skipped": "conversation",
        "Turn": "conversation",
        "importers": "registry",
        "load_dialogues": "reading",
        "read_dialogues": "reading",
        "read_imports": "reading",
    },
)

__all__ = [
    "Conversation",
    "ImportedDialogue",
    "Importer",
    "Skipped",
    "Turn",
    "importers",
    "load_dialogues",
    "read_dialogues",
    "read_imports",
]
