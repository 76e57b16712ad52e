"""The names by which a model can be given, and what each of them means."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from mlx_personal.errors import UserError
from mlx_personal.models.stores import lm_studio, ollama
from mlx_personal.models.stores.entry import user_path

DEMO_MODEL: Final = "demo"
NAMES_HINT: Final = (
    "name a folder, a .gguf file, ollama:NAME, lmstudio:PUBLISHER/NAME, a hub repository like owner/name, or `demo`"
)
_MAX_SUGGESTIONS = 3
_MIN_SIMILARITY = 0.6
_MIN_PART_CHARACTERS = 3


class NameKind(Enum):
    """What a name stands for."""

    DEMO = "the embedded model"
    PATH = "a folder or file that exists"
    OLLAMA = "a model of Ollama"
    LM_STUDIO = "a model of LM Studio"
    CONVERTED = "a converted model"
    HUB = "a repository of the Hugging Face hub"


@dataclass(frozen=True)
class ModelName:
    """A name, understood.

    Attributes:
        kind: What it stands for.
        text: The name without its prefix; an absolute path for `PATH` and `CONVERTED`.
    """

    kind: NameKind
    text: str


def parse_model_name(name_or_path: str | Path, converted_models: Path) -> ModelName:
    """Return what a name stands for, without reading any model.

    Args:
        name_or_path: The name, as a user gives it.
        converted_models: Folder of the converted models.

    Raises:
        UserError: If it cannot be the name of a model.
    """
    text = os.fspath(name_or_path).strip()
    if not text:
        raise UserError("no model is named", hint=NAMES_HINT)
    if text == DEMO_MODEL:
        return ModelName(NameKind.DEMO, text)
    if text.startswith(ollama.PREFIX):
        return ModelName(NameKind.OLLAMA, text.removeprefix(ollama.PREFIX))
    if text.startswith(lm_studio.PREFIX):
        return ModelName(NameKind.LM_STUDIO, text.removeprefix(lm_studio.PREFIX))
    path = user_path(text)
    if _exists(path):
        return ModelName(NameKind.PATH, str(path.resolve()))
    is_plain = "/" not in text and not text.startswith(".")
    if is_plain and _exists(converted_models / text / "config.json"):
        return ModelName(NameKind.CONVERTED, str((converted_models / text).absolute()))
    if text.lower().endswith(".gguf"):
        raise UserError("no such file", path, "check its name")
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise UserError("no such model folder", text, NAMES_HINT)
    return ModelName(NameKind.HUB, text)


def suggest_names(name: str, names: Iterable[str]) -> str | None:
    """Return a hint with the names most similar to one that does not exist, or None if none is similar.

    Args:
        name: The name.
        names: Names that exist.
    """
    nearest = nearest_names(name, names)
    return f"did you mean {' or '.join(nearest)}?" if nearest else None


def nearest_names(name: str, names: Iterable[str]) -> list[str]:
    """Return the names most similar to one that does not exist.

    Args:
        name: The name.
        names: Names that exist.
    """
    wanted = name.lower()
    originals: dict[str, str] = {}
    for existing in names:
        originals.setdefault(existing.lower(), existing)
    similar = difflib.get_close_matches(wanted, originals, _MAX_SUGGESTIONS, _MIN_SIMILARITY)
    containing = [
        existing for existing in originals if len(wanted) > 2 and wanted in existing and existing not in similar
    ]
    return [originals[existing] for existing in [*containing, *similar][:_MAX_SUGGESTIONS]]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # not permitted to look, too long, or with a null byte
        return False
