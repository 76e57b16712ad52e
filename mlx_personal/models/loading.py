"""Load language models by any name that `find_model` understands."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import time
from pathlib import Path

from mlx_personal.errors import UserError
from mlx_personal.models.finding import find_model
from mlx_personal.models.language_model import LanguageModel
from mlx_personal.models.mlx_lm_compat import silence_length_warnings
from mlx_personal.models.model_names import DEMO_MODEL, NameKind, parse_model_name
from mlx_personal.models.safe_loading import load_model_and_tokenizer
from mlx_personal.runtime.device import prepare_model
from mlx_personal.storage.home import Home

__all__ = ["DEMO_MODEL", "cached_model", "canonical_name", "fingerprint", "load_language_model", "resolve_model"]

logger = logging.getLogger(__name__)

silence_length_warnings()


def load_language_model(
    name_or_path: str | Path, adapter_path: Path | None = None, lazy: bool = False
) -> LanguageModel:
    """Load a model with its tokenizer.

    Args:
        name_or_path: `demo` for the embedded model, a folder, a .gguf file, `ollama:NAME[:TAG]`,
            `lmstudio:PUBLISHER/NAME`, or a repository of the Hugging Face hub; see `find_model`.
        adapter_path: Folder of a LoRA adapter to attach.
        lazy: Whether weights are read only when they are used or `LanguageModel.reload_weights` is called.

    Raises:
        UserError: If there is no such model, it has no tokenizer, or it requires code of its own.
    """
    found, start = find_model(name_or_path), time.perf_counter()
    model, tokenizer = load_model_and_tokenizer(found.folder, lazy)
    lm = LanguageModel(prepare_model(model, lazy), tokenizer, found.folder, found.name)
    _check_vocabulary(lm)
    if adapter_path is not None:
        lm.attach_adapter(adapter_path)
    logger.info("loaded the model %s in %.1f s", lm.name, time.perf_counter() - start)
    return lm


@functools.lru_cache(maxsize=1)
def cached_model(path: str) -> LanguageModel:
    """Return the model of a folder, which stays loaded until another one is requested.

    All jobs of a process share it, so a caller that attaches an adapter has to detach it.

    Args:
        path: The model's folder.

    Raises:
        UserError: As `load_language_model` raises it.
    """
    return load_language_model(path)


def canonical_name(name_or_path: str | Path) -> str:
    """Return the name under which a profile stores a model: an absolute path for a folder or a converted file.

    Args:
        name_or_path: As for `load_language_model`; a name that no model has is returned as it is.

    Raises:
        UserError: If it is the name of a file that cannot be converted.
    """
    try:
        name = parse_model_name(name_or_path, Home.default().models)
    except UserError:
        return str(name_or_path)
    is_folder = name.kind in (NameKind.PATH, NameKind.CONVERTED) and Path(name.text).is_dir()
    return name.text if is_folder or name.kind in (NameKind.DEMO, NameKind.HUB) else find_model(name_or_path).name


def resolve_model(name_or_path: str | Path) -> Path:
    """Return the folder of a model; see `find_model`.

    Args:
        name_or_path: As for `load_language_model`.

    Raises:
        UserError: If there is no such model, or its folder lacks weights or a tokenizer.
    """
    return find_model(name_or_path).folder


def fingerprint(folder: Path) -> str:
    """Return a hash of a model folder's config and of the sizes and a sample of the bytes of its weight files.

    Hashing gigabytes at every start would take longer than generating an answer.

    Args:
        folder: The model's folder.
    """
    digest = hashlib.sha256(json.dumps(json.loads((folder / "config.json").read_text()), sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as data:
            for part in range(8):
                data.seek(size * part // 8)
                digest.update(data.read(65536))
    return digest.hexdigest()[:16]


def _check_vocabulary(lm: LanguageModel) -> None:
    """Raise UserError if the tokenizer has tokens for which the model has no embedding.

    MLX does not check indices: such a token would get the numbers of whatever lies behind the embedding in memory.
    Added tokens are not counted: those without an embedding are never used, and some sound models have them.
    """
    tokens, embeddings = lm.tokenizer.vocab_size, lm.vocabulary_size
    if embeddings is not None and tokens > embeddings:
        what = f"the tokenizer has {tokens:,} tokens, the model only {embeddings:,} embeddings"
        raise UserError(what, lm.path, "name another model, or add the tokenizer that belongs to it")
