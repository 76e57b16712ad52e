"""GGUF files in llama.cpp's cache."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mlx_personal.models.stores.entry import StoreEntry, distinct, gguf_models, subfolders, unreadable, user_path


def entries() -> Iterator[StoreEntry]:
    """Yield the GGUF files of the cache and of the folders in it."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    candidates = [os.environ.get("LLAMA_CACHE", ""), "~/Library/Caches/llama.cpp", f"{cache}/llama.cpp"]
    for root in distinct([user_path(candidate) for candidate in candidates if candidate]):
        try:
            places = [root, *subfolders(root)]
        except OSError as error:
            yield unreadable(root, error)
            continue
        for folder in places:
            try:
                for file in gguf_models(folder):
                    yield StoreEntry(str(file), file)
            except OSError as error:
                yield unreadable(folder, error)
