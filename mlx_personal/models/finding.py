"""Find the folder of a model by any of the names that it can be given by; convert or download it if necessary."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import errors as hub_errors

from mlx_personal.errors import UserError, from_os_error
from mlx_personal.models.gguf.file import GGUFFile, read_gguf
from mlx_personal.models.local_models import local_model_names
from mlx_personal.models.mlx_lm_compat import cached_model_folder, download_model
from mlx_personal.models.model_folder import check_model_folder
from mlx_personal.models.model_names import NAMES_HINT, NameKind, parse_model_name, suggest_names
from mlx_personal.models.stores import lm_studio, ollama
from mlx_personal.models.stores.converted import convert_once
from mlx_personal.progress import Progress
from mlx_personal.storage.home import Home

logger = logging.getLogger(__name__)

_NETWORK_HINT = "check the network, or name a local folder"
_DEMO_MODEL_FOLDER = Path(__file__).parent.parent / "demo" / "model"


@dataclass(frozen=True)
class FoundModel:
    """A model that was found.

    Attributes:
        name: The name by which a profile stores it: `demo`, a hub repository, or the absolute path of a folder.
        folder: Its folder.
        note: What the user should know about the choice, in one sentence; None if there is nothing to say.
    """

    name: str
    folder: Path
    note: str | None = None


def find_model(name_or_path: str | Path, on_progress: Progress | None = None) -> FoundModel:
    """Find a model. A GGUF file is converted unless the repository that it was made from is in the hub's cache.

    Args:
        name_or_path: `demo`, a folder, a .gguf file, `ollama:NAME`, `lmstudio:PUBLISHER/NAME`, a converted model, or a
            repository of the hub, which is downloaded if it is not in the cache.
        on_progress: Receives the events of a conversion.

    Raises:
        UserError: If there is no such model, or it cannot be loaded.
    """
    home = Home.default()
    try:
        found = _find(name_or_path, home, on_progress)
        check_model_folder(found.folder)
    except OSError as error:
        raise from_os_error(error, name_or_path) from error
    return found


def _find(name_or_path: str | Path, home: Home, on_progress: Progress | None) -> FoundModel:
    try:
        name = parse_model_name(name_or_path, home.models)
    except UserError as error:
        suggestion = suggest_names(str(name_or_path), local_model_names(home))
        raise UserError(error.what, error.where, suggestion or error.hint) from error
    match name.kind:
        case NameKind.DEMO:
            return FoundModel(name.text, _DEMO_MODEL_FOLDER)
        case NameKind.OLLAMA:
            path = _ollama_file(name.text, home)
            try:
                return _from_gguf(path, str(name_or_path), home, on_progress, ollama.digest_of(path))
            except UserError as error:
                if error.where != str(path):
                    raise
                # The name says more than that of the blob.
                raise UserError(error.what, str(name_or_path), error.hint) from error
        case NameKind.LM_STUDIO:
            path = _lm_studio_path(name.text, home)
        case NameKind.HUB:
            return FoundModel(name.text, _fetch(name.text, home))
        case NameKind.PATH | NameKind.CONVERTED:
            path = Path(name.text)
    if path.is_dir():
        return FoundModel(str(path), path)
    if path.suffix.lower() != ".gguf":
        hint = "name a .gguf file, or a folder with config.json and .safetensors files"
        raise UserError("is not a model folder", path, hint)
    return _from_gguf(path, str(name_or_path), home, on_progress)


def _from_gguf(
    path: Path, name: str, home: Home, on_progress: Progress | None, sha256: str | None = None
) -> FoundModel:
    """Return the original of a GGUF file if it is in the hub's cache, or else the converted file."""
    file = read_gguf(path)
    original = _cached_original(file)
    if original is not None:
        repository, folder = original
        note = f"{name} was made from {repository}, which is in the Hugging Face cache and is used instead"
        logger.info(note)
        return FoundModel(repository, folder, note)
    folder = convert_once(path, name, home.models, sha256, on_progress)
    return FoundModel(str(folder), folder)


def _cached_original(file: GGUFFile) -> tuple[str, Path] | None:
    """Return the repository that a file was made from and its folder, if it is in the hub's cache and can be loaded."""
    for repository in file.repositories:
        folder = cached_model_folder(repository)
        if folder is None:
            continue
        try:
            config = check_model_folder(folder)
        except UserError:
            continue
        text_config = config.get("text_config")
        sizes = text_config if isinstance(text_config, dict) else config
        key = file.architecture
        same_sizes = sizes.get("hidden_size") == file.metadata.get(f"{key}.embedding_length") and sizes.get(
            "num_hidden_layers"
        ) == file.metadata.get(f"{key}.block_count")
        if same_sizes:
            return repository, folder
    return None


def _ollama_file(name: str, home: Home) -> Path:
    """Return the GGUF file of a model of Ollama."""
    entry = ollama.find(name)
    if entry is None:
        raise _unknown(f"{ollama.PREFIX}{name}", "Ollama has no such model", home)
    if entry.problem is not None:
        raise UserError(entry.problem, entry.name, entry.hint)
    return entry.path


def _lm_studio_path(name: str, home: Home) -> Path:
    """Return the folder or the GGUF file of a model of LM Studio."""
    full_name = f"{lm_studio.PREFIX}{name}".rstrip("/")
    entries = {entry.name: entry for entry in lm_studio.entries()}
    entry = entries.get(full_name)
    if entry is None:
        single = full_name.rpartition("/")[0]  # a model's only file may be named too
        if single in entries and entries[single].path.name == full_name.rpartition("/")[2]:
            entry = entries[single]
    if entry is None:
        versions = [other for other in entries if other.startswith(f"{full_name}/")]
        if versions:
            raise UserError("is there in several quantizations", full_name, f"name one: {', '.join(versions)}")
        raise _unknown(full_name, "LM Studio has no such model", home)
    if entry.problem is not None:
        raise UserError(entry.problem, entry.name, "name another model")
    return entry.path


def _fetch(repository: str, home: Home) -> Path:
    """Return the folder of a hub repository, from the cache or downloaded."""
    # A cached model is never updated: adapters fit only the revision they were trained on.
    cached = cached_model_folder(repository)
    if cached is not None:
        return cached
    try:
        logger.info("downloading the model %s", repository)
        return download_model(repository)
    except hub_errors.RepositoryNotFoundError as error:
        hint = suggest_names(repository, local_model_names(home)) or "check its name, or log in if it is gated"
        raise UserError("no such repository on the hub", repository, hint) from error
    except OSError as error:
        if error.errno:
            raise from_os_error(error, repository) from error
        raise _not_downloaded(repository, home) from error
    except Exception as error:  # without a network the hub's client raises errors of its HTTP library
        raise _not_downloaded(repository, home) from error


def _not_downloaded(repository: str, home: Home) -> UserError:
    suggestion = suggest_names(repository, local_model_names(home))
    hint = _NETWORK_HINT if suggestion is None else f"{_NETWORK_HINT}; {suggestion}"
    return UserError("cannot be downloaded from the hub", repository, hint)


def _unknown(name: str, what: str, home: Home) -> UserError:
    """Return the error about a name that no model has."""
    return UserError(what, name, suggest_names(name, local_model_names(home)) or NAMES_HINT)
