"""The models that this machine has, in the folders of several programs: what they are, and whether they can be loaded.

No weight is read: a folder is described by its config.json and the headers of its files, a GGUF file by its metadata.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlx_personal.errors import UserError, from_os_error
from mlx_personal.models.gguf.architectures import architecture_of
from mlx_personal.models.gguf.file import GGUFFile, read_gguf
from mlx_personal.models.model_folder import check_model_folder, read_json_object
from mlx_personal.models.stored_weights import quantization_name, stored_weights
from mlx_personal.models.stores import converted, hugging_face, llama_cpp, lm_studio, ollama
from mlx_personal.models.stores.entry import StoreEntry
from mlx_personal.storage.home import Home

logger = logging.getLogger(__name__)

CONVERTED: Final = "converted"
# Other programs' stores by the names they are shown under.
_STORES: Final[Mapping[str, Callable[[], Iterator[StoreEntry]]]] = {
    "hugging face": hugging_face.entries,
    "lm studio": lm_studio.entries,
    "ollama": ollama.entries,
    "llama.cpp": llama_cpp.entries,
}


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine.

    Attributes:
        name: The name by which it can be loaded.
        store: Where it is: a program, or `converted` for the models of this one.
        path: Its folder, or its GGUF file.
        architecture: Its architecture as its files name it; None if they cannot be read.
        parameters: Number of its parameters, or None if it is not known.
        quantization: How most of its weights are stored, such as `Q4_K_M`, `4-bit` or `bf16`.
        size_bytes: Size of its files.
        context_length: Number of tokens that it was made for, or None if it is not known.
        problem: Why it cannot be loaded, or None.
        gguf: What its GGUF file says, so that it need not be read again; None for a folder.
    """

    name: str
    store: str
    path: str
    architecture: str | None = None
    parameters: int | None = None
    quantization: str | None = None
    size_bytes: int = 0
    context_length: int | None = None
    problem: str | None = None
    gguf: GGUFFile | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return all but `gguf` as a JSON object."""
        return {name: value for name, value in vars(self).items() if name != "gguf"}


def list_local_models(home: Home) -> list[LocalModel]:
    """Return the models of all stores, those that cannot be loaded included, sorted by store and name.

    Args:
        home: The home folder, for the converted models.
    """
    return [describe_model(store, entry) for store, entry in _entries(home)]


def local_model_names(home: Home) -> list[str]:
    """Return the names of all local models, without looking into their files.

    Args:
        home: The home folder, for the converted models.
    """
    return [entry.name for _, entry in _entries(home)]


def find_local_model(home: Home, name: str) -> LocalModel | None:
    """Return the model of a name, or None if there is none.

    Args:
        home: The home folder, for the converted models.
        name: The name.
    """
    return next((describe_model(store, entry) for store, entry in _entries(home) if entry.name == name), None)


def describe_model(store: str, entry: StoreEntry) -> LocalModel:
    """Return what the files of a model say about it.

    Args:
        store: The store's name.
        entry: The model's entry there.
    """
    if entry.problem is not None:
        return LocalModel(entry.name, store, str(entry.path), problem=entry.problem)
    describe = _describe_folder if entry.path.is_dir() else _describe_gguf
    try:
        return describe(store, entry)
    except UserError as error:
        problem = _problem(error, entry.path)
    except OSError as error:
        problem = from_os_error(error, entry.path).what
    except Exception as error:  # files that other programs wrote can contain anything
        logger.debug("cannot describe the model %s", entry.name, exc_info=True)
        problem = f"its files cannot be understood ({type(error).__name__})"
    return LocalModel(entry.name, store, str(entry.path), size_bytes=_size(entry.path), problem=problem)


def _entries(home: Home) -> Iterator[tuple[str, StoreEntry]]:
    """Yield the entries of all stores with the store's name."""
    for store, entries in {CONVERTED: lambda: converted.entries(home.models), **_STORES}.items():
        yield from ((store, entry) for entry in sorted(entries(), key=lambda entry: entry.name))


def _describe_folder(store: str, entry: StoreEntry) -> LocalModel:
    """Describe a folder with config.json and safetensors files."""
    folder, problem = entry.path, None
    config = {}
    try:
        config = check_model_folder(folder)
    except UserError as error:
        problem = _problem(error, folder)
        if (folder / "config.json").is_file():
            config = read_json_object(folder / "config.json")
    try:
        weights = stored_weights(folder, config)
    except UserError as error:
        weights, problem = {}, problem or _problem(error, folder)
    inner = config.get("text_config")
    length = (inner if isinstance(inner, dict) else config).get("max_position_embeddings")
    architecture = config.get("model_type")
    return LocalModel(
        name=entry.name,
        store=store,
        path=str(folder),
        architecture=architecture if isinstance(architecture, str) else None,
        parameters=sum(weight.parameter_count for weight in weights.values()) or None,
        quantization=quantization_name(weights, config),
        size_bytes=_size(folder),
        context_length=length if isinstance(length, int) else None,
        problem=problem,
    )


def _describe_gguf(store: str, entry: StoreEntry) -> LocalModel:
    """Describe a GGUF file."""
    file, problem = read_gguf(entry.path), None
    try:
        architecture_of(file)
    except UserError as error:
        problem = _problem(error, entry.path)
    return LocalModel(
        name=entry.name,
        store=store,
        path=str(entry.path),
        architecture=file.architecture,
        parameters=file.parameter_count,
        quantization=file.quantization,
        size_bytes=file.size_bytes,
        context_length=file.context_length,
        problem=problem,
        gguf=file,
    )


def _problem(error: UserError, path: Path) -> str:
    """Return what is wrong with a model, with the name of the file in its folder that it is about."""
    is_about_model = error.where is None or error.where == str(path)
    return error.what if is_about_model else f"{Path(str(error.where)).name}: {error.what}"


def _size(path: Path) -> int:
    """Return the size in bytes of a file, or of the files in a folder; 0 if it cannot be read."""
    try:
        if path.is_dir():
            with os.scandir(path) as files:
                return sum(os.path.getsize(file) for file in files if os.path.isfile(file))
        return path.stat().st_size
    except OSError:
        return 0
