"""What a converted model was made from: a small file in its folder, read without any library."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from mlx_personal.storage.files import atomic_write

_FILE_NAME: Final = "source.json"


@dataclass(frozen=True)
class ModelSource:
    """What a model was converted from.

    Attributes:
        name: The name that it was given by then, such as `ollama:smollm2:135m`.
        path: The GGUF file.
        sha256: Hash of the file.
    """

    name: str
    path: str
    sha256: str


def read_source(folder: Path) -> ModelSource | None:
    """Return what a model was converted from; None for a model that was not converted.

    Args:
        folder: The model's folder.
    """
    try:
        content = json.loads((folder / _FILE_NAME).read_bytes())
        return ModelSource(str(content["name"]), str(content["path"]), str(content["sha256"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def write_source(folder: Path, source: ModelSource) -> None:
    """Record what a model was converted from.

    Args:
        folder: The model's folder.
        source: What it was converted from.

    Raises:
        UserError: If it cannot be written.
    """
    atomic_write(folder / _FILE_NAME, json.dumps(asdict(source), indent=1))
