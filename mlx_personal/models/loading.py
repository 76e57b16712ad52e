"""Load language models: the demo model, folders, and repositories of the Hugging Face hub."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import time
from pathlib import Path

from huggingface_hub import errors as hub_errors

from mlx_personal.errors import UserError, from_os_error
from mlx_personal.models.language_model import LanguageModel
from mlx_personal.models.mlx_lm_compat import cached_model_folder, download_model, silence_length_warnings
from mlx_personal.models.model_folder import check_model_folder
from mlx_personal.models.safe_loading import load_model_and_tokenizer
from mlx_personal.runtime.device import prepare_model

logger = logging.getLogger(__name__)

DEMO_MODEL = "demo"
_NETWORK_HINT = "check the network, or name a local folder"
_DEMO_MODEL_FOLDER = Path(__file__).parent.parent / "demo" / "model"

silence_length_warnings()


def load_language_model(
    name_or_path: str | Path, adapter_path: Path | None = None, lazy: bool = False
) -> LanguageModel:
    """Load a model with its tokenizer.

    Args:
        name_or_path: `demo` for the embedded model, a folder, or a repository of the Hugging Face hub.
        adapter_path: Folder of a LoRA adapter to attach.
        lazy: Whether weights are read only when they are used or `LanguageModel.reload_weights` is called.

    Raises:
        UserError: If there is no such model, it has no tokenizer, or it requires code of its own.
    """
    path, start = resolve_model(name_or_path), time.perf_counter()
    model, tokenizer = load_model_and_tokenizer(path, lazy)
    lm = LanguageModel(prepare_model(model, lazy), tokenizer, path, canonical_name(name_or_path))
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
    """Return the name under which a profile stores a model: an absolute path for a folder.

    Args:
        name_or_path: As for `load_language_model`.
    """
    if str(name_or_path) != DEMO_MODEL and Path(name_or_path).expanduser().exists():
        return str(Path(name_or_path).expanduser().resolve())
    return str(name_or_path)


def resolve_model(name_or_path: str | Path) -> Path:
    """Return the folder of a model; a hub repository that is not in the cache is downloaded.

    Args:
        name_or_path: As for `load_language_model`.

    Raises:
        UserError: If there is no such model, or its folder lacks weights or a tokenizer.
    """
    name = canonical_name(name_or_path)
    path = _DEMO_MODEL_FOLDER if name == DEMO_MODEL else Path(name)
    if not path.exists():
        path = _fetch(name)
    if not path.is_dir():
        raise UserError("is not a model folder", path, "name a folder with config.json and .safetensors files")
    check_model_folder(path)
    return path


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


def _fetch(repo: str) -> Path:
    """Return the folder of a hub repository, from the cache or downloaded."""
    if repo.count("/") != 1 or repo.startswith((".", "/", "~")):
        raise UserError("no such model folder", repo, "name a folder, a hub repository like owner/name, or `demo`")
    # A cached model is never updated: adapters fit only the revision they were trained on.
    cached = cached_model_folder(repo)
    if cached is not None:
        return cached
    try:
        logger.info("downloading the model %s", repo)
        return download_model(repo)
    except hub_errors.RepositoryNotFoundError as error:
        raise UserError("no such repository on the hub", repo, "check its name, or log in if it is gated") from error
    except OSError as error:
        if error.errno:
            raise from_os_error(error, repo) from error
        raise UserError("cannot be downloaded from the hub", repo, _NETWORK_HINT) from error
    except Exception as error:  # without a network the hub's client raises errors of its HTTP library
        raise UserError("cannot be downloaded from the hub", repo, _NETWORK_HINT) from error
