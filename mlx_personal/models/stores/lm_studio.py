"""Models in LM Studio's folder: `PUBLISHER/NAME` with an MLX model or GGUF files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mlx_personal.models.stores.entry import StoreEntry, distinct, gguf_models, subfolders, unreadable, user_path

PREFIX = "lmstudio:"


def entries() -> Iterator[StoreEntry]:
    """Yield the models; a GGUF file among several of one model is named by its file too."""
    for root in roots():
        try:
            publishers = subfolders(root)
        except OSError as error:
            yield unreadable(root, error)
            continue
        for publisher in publishers:
            yield from _publisher_entries(publisher)


def roots() -> list[Path]:
    """Return the folders of models that exist: the usual ones, and the one of LM Studio's settings."""
    homes = [user_path("~/.lmstudio"), user_path("~/.cache/lm-studio")]
    pointer = _read_text(user_path("~/.lmstudio-home-pointer")).strip()
    if pointer:
        homes.insert(0, user_path(pointer))
    folders = [home / "models" for home in homes] + [home / ".internal" / "bundled-models" for home in homes]
    for home in homes:
        configured = _configured_folder(home / "settings.json")
        if configured is not None:
            folders.insert(0, configured)
    return list(distinct(folders))


def _publisher_entries(publisher: Path) -> Iterator[StoreEntry]:
    """Yield the models of one publisher."""
    try:
        folders = subfolders(publisher)
    except OSError as error:
        yield unreadable(publisher, error)
        return
    for folder in folders:
        name = f"{PREFIX}{publisher.name}/{folder.name}"
        try:
            gguf_files = gguf_models(folder)
        except OSError as error:
            yield StoreEntry(name, folder, unreadable(folder, error).problem)
            continue
        if len(gguf_files) == 1 and not (folder / "config.json").exists():
            yield StoreEntry(name, gguf_files[0])
            continue
        for file in gguf_files:
            yield StoreEntry(f"{name}/{file.name}", file)
        if not gguf_files or (folder / "config.json").exists():
            yield StoreEntry(name, folder)


def _configured_folder(file: Path) -> Path | None:
    """Return the folder of models that LM Studio's settings name, if any."""
    try:
        settings = json.loads(_read_text(file))
    except (ValueError, RecursionError):
        return None
    folder = settings.get("downloadsFolder") if isinstance(settings, dict) else None
    return user_path(folder) if isinstance(folder, str) and folder and "\0" not in folder else None


def _read_text(file: Path) -> str:
    """Return the text of a file, or an empty one if it cannot be read."""
    try:
        return file.read_text("utf-8", errors="replace")
    except OSError:
        return ""
