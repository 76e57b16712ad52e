"""Write small files to import, and read them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlx_personal.errors import UserError
from mlx_personal.importers import ImportedDialogue, Skipped, read_imports

LINE = json.dumps({"prompt": "When is the pear ripe?", "completion": "In September."}).encode()
LINES = LINE + b"\n" + LINE + b"\n"


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


def write_zip(path: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip, and return its path."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def counted(path: Path) -> tuple[int, list[tuple[str, str]]]:
    """Return the number of dialogues of a path, and for each skipped part its name and the reason."""
    items = list(read_imports(path))
    skipped = [(item.where.removeprefix(str(path)), item.reason) for item in items if isinstance(item, Skipped)]
    return sum(isinstance(item, ImportedDialogue) for item in items), skipped


def error_of(path: Path) -> str:
    """Return the line of the error that reading a path raises."""
    with pytest.raises(UserError) as raised:
        list(read_imports(path))
    assert raised.value.hint
    return raised.value.line()
