"""The folders in which other programs keep models, with tiny models in them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from mlx_personal.models.stores import ollama
from tests.support.gguf_files import COMMON, converted_weights, random_model, write_gguf

OLLAMA_LAYER = "application/vnd.ollama.image."


def write_tiny_gguf(path: Path, settings: Mapping[str, Any] | None = None, seed: int = 0) -> Path:
    """Write a GGUF file of a random 2-layer llama; `settings` are further metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_gguf(path, "llama", converted_weights(random_model("llama", COMMON, seed), "llama"), settings=settings)


class ModelStores:
    """The stores of a user whose folder is `folder`.

    Attributes:
        folder: The user's folder.
        ollama: Ollama's folder of models.
        lm_studio: LM Studio's folder of models.
        hub: The Hugging Face hub's cache.
        llama_cpp: llama.cpp's cache.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder
        self.ollama = folder / ".ollama" / "models"
        self.lm_studio = folder / ".lmstudio" / "models"
        self.hub = folder / ".cache" / "huggingface" / "hub"
        self.llama_cpp = folder / ".cache" / "llama.cpp"
        monkeypatch.setenv("HOME", str(folder))
        for variable in ("OLLAMA_MODELS", "LLAMA_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(self.hub))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(ollama, "_SERVICE_FOLDER", folder / "service")

    def add_ollama(self, name: str, file: Path | None, *layers: tuple[str, str]) -> Path:
        """Add a manifest `HOST/NAMESPACE/MODEL/TAG`, with the model's blob if a file is given, and return the blob."""
        digest = hashlib.sha256(b"" if file is None else file.read_bytes()).hexdigest()
        blob = self.ollama / "blobs" / f"sha256-{digest}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        if file is not None:
            shutil.copy(file, blob)
        entries = [("model", f"sha256:{digest}"), ("template", "sha256:" + "1" * 64), *layers]
        manifest = {"layers": [{"mediaType": OLLAMA_LAYER + kind, "digest": d, "size": 1} for kind, d in entries]}
        self.write_manifest(name, json.dumps(manifest))
        return blob

    def write_manifest(self, name: str, text: str) -> None:
        """Write a manifest of Ollama."""
        path = self.ollama / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def add_lm_studio(self, name: str, source: Path) -> Path:
        """Add a model folder `PUBLISHER/NAME`, or a GGUF file `PUBLISHER/NAME/FILE`."""
        return copied(source, self.lm_studio / name)

    def add_hub(self, repository: str, source: Path) -> Path:
        """Add a repository with the files of a folder, or with one file, and return its snapshot."""
        folder = self.hub / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("abc")
        snapshot = folder / "snapshots" / "abc"
        snapshot.parent.mkdir(parents=True)
        copied(source, snapshot / source.name if source.is_file() else snapshot)
        return snapshot


def copied(source: Path, target: Path) -> Path:
    """Copy a file or a folder, and return the copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target))
