"""Write small files to import, and read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_personal.importers import ImportedDialogue, Skipped, read_imports


def write_lines(file: Path, rows: Sequence[Any]) -> Path:
    """Write a JSON Lines file, and return its path."""
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def imported(path: Path, importer_name: str | None = None) -> list[ImportedDialogue]:
    """Return the dialogues of a path."""
    return [item for item in read_imports(path, importer_name) if isinstance(item, ImportedDialogue)]


def conversations(path: Path) -> list[list[tuple[str, str]]]:
    """Return role and content of each message of each dialogue of a path."""
    return [[(message.role, message.content) for message in item.dialogue.messages] for item in imported(path)]


def skip_reasons(path: Path) -> list[str]:
    """Return why parts of a path are left out."""
    return [item.reason for item in read_imports(path) if isinstance(item, Skipped)]
