"""Models in the Hugging Face hub's cache: `models--OWNER--NAME/snapshots/REVISION`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants

from mlx_personal.models.stores.entry import StoreEntry, files, gguf_models, subfolders, unreadable

_PREFIX = "models--"


def entries() -> Iterator[StoreEntry]:
    """Yield the models of the cache that huggingface_hub uses: repositories, and each GGUF file in one."""
    cache = Path(constants.HF_HUB_CACHE)
    try:
        repositories = [folder for folder in subfolders(cache) if folder.name.startswith(_PREFIX)]
    except OSError as error:
        yield unreadable(cache, error)
        return
    for folder in repositories:
        try:
            yield from _repository_entries(folder)
        except OSError as error:
            yield unreadable(folder, error)


def cached_snapshot(repository: str) -> Path | None:
    """Return the folder of a repository's current revision in the cache, or None if it has none.

    Args:
        repository: Name of the repository, `owner/name`.
    """
    try:
        return _current_snapshot(Path(constants.HF_HUB_CACHE) / f"{_PREFIX}{repository.replace('/', '--')}")
    except OSError:
        return None


def _repository_entries(folder: Path) -> Iterator[StoreEntry]:
    """Yield the models of one repository."""
    name = folder.name.removeprefix(_PREFIX).replace("--", "/")
    current = _current_snapshot(folder)
    snapshots = [current] if current is not None else subfolders(folder / "snapshots")[-1:]
    for snapshot in snapshots:
        gguf_files = [file for place in (snapshot, *subfolders(snapshot)) for file in gguf_models(place)]
        for file in gguf_files:
            yield StoreEntry(str(file), file)
        has_weights = (snapshot / "config.json").exists() and any(snapshot.glob("*.safetensors"))
        is_empty = not files(snapshot) and not subfolders(snapshot)
        # A revision that is not the main branch's is found only by its path.
        if has_weights or not (gguf_files or is_empty):
            yield StoreEntry(name if snapshot == current else str(snapshot), snapshot)


def _current_snapshot(folder: Path) -> Path | None:
    """Return the snapshot of the main branch."""
    reference = folder / "refs" / "main"
    if not reference.is_file():
        return None
    revision = reference.read_text("utf-8", errors="replace").strip()
    snapshot = folder / "snapshots" / Path(revision).name
    return snapshot if revision and snapshot.is_dir() else None
