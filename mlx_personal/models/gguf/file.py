"""A GGUF file, or all files of a model that is split into several: what it says about the model, no weights."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType, GGUFValueType, LlamaFileType

from mlx_personal.errors import UserError, from_os_error, quoted
from mlx_personal.models.gguf.header import (
    Header,
    MetadataArray,
    Scalar,
    TensorInfo,
    read_header,
    read_numbers,
    read_strings,
)

# Endings of the files into which Ollama, huggingface_hub, curl and browsers download. Ollama's has its full size and
# a valid header long before it is complete.
_UNFINISHED = re.compile(r"(-partial(-\d+)?|\.(partial|part|incomplete|download|crdownload|tmp))$")
_PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")
_MAX_PARTS = 1024
_HUB_URL = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repository>[^/?#]+/[^/?#]+)(?:[/?#].*)?$")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HASH_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class GGUFFile:
    """What one or more GGUF files say about the model in them.

    Attributes:
        paths: The files; several where the model is split.
        metadata: Values of the first file by key.
        tensors: The tensors of all files.
        size_bytes: Size of all files.
    """

    paths: tuple[Path, ...]
    metadata: dict[str, Scalar | MetadataArray]
    tensors: tuple[TensorInfo, ...]
    size_bytes: int

    @property
    def path(self) -> Path:
        """The file, or the first of several."""
        return self.paths[0]

    @property
    def architecture(self) -> str:
        """The name of the architecture, such as `llama`."""
        return self.required_string("general.architecture")

    @property
    def name(self) -> str:
        """The model's name, or the file's where the metadata has none."""
        return self.string("general.name") or self.path.stem

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(tensor.parameter_count for tensor in self.tensors)

    @property
    def main_type(self) -> str:
        """The storage type of most of the weights, such as `Q4_K`."""
        counts: Counter[GGMLQuantizationType] = Counter()
        for tensor in self.tensors:
            counts[tensor.type] += tensor.parameter_count
        return counts.most_common(1)[0][0].name if counts else "F32"

    @property
    def quantization(self) -> str:
        """The name of the mix of storage types, such as `Q4_K_M`; `main_type` where the file does not name it."""
        number = self.metadata.get("general.file_type")
        try:
            name = LlamaFileType(number).name if isinstance(number, int) else ""
        except ValueError:
            name = ""
        return name.removeprefix("MOSTLY_").removeprefix("ALL_") if name not in ("", "GUESSED") else self.main_type

    @property
    def context_length(self) -> int | None:
        """The number of tokens that the model was made for, if the file says it."""
        value = self.metadata.get(f"{self.architecture}.context_length")
        return value if isinstance(value, int) and value > 0 else None

    @property
    def repositories(self) -> tuple[str, ...]:
        """Repositories of the hub, `owner/name`, that hold the same model before it was converted.

        The `base_model` of a file is either that repository or the model that this one was fine-tuned from, so it
        counts only if its name is the model's own.
        """
        values = [self.string(f"general.source.{key}") for key in ("huggingface.repository", "repo_url", "url")]
        own_name = _comparable(self.name)
        for key in ("repo_url", "url"):
            base = _repository(self.string(f"general.base_model.0.{key}"))
            if base is not None and _comparable(base.split("/")[1]) == own_name:
                values.append(base)
        found = [repository for value in values if (repository := _repository(value)) is not None]
        return tuple(dict.fromkeys(found))

    def tensor(self, name: str) -> TensorInfo | None:
        """Return a tensor by its name, or None if there is none.

        Args:
            name: The name.
        """
        return next((tensor for tensor in self.tensors if tensor.name == name), None)

    def string(self, key: str) -> str | None:
        """Return a text of the metadata, or None if there is none.

        Args:
            key: The key.
        """
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def required_string(self, key: str) -> str:
        """Return a text of the metadata.

        Args:
            key: The key.

        Raises:
            UserError: If the file has none.
        """
        value = self.string(key)
        if value is None:
            raise self.error(f"has no {key} in its metadata")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """Return an integer of the metadata; an array of equal ones, such as one for each layer, counts as one.

        Args:
            key: The key.
            default: The value if the file has none; None for an error.

        Raises:
            UserError: If the file has none and there is no default, or it has another kind of value.
        """
        value = self._number(key, default)
        if isinstance(value, float):
            raise self.error(f"has no integer as {key} in its metadata")
        return int(value)

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number of the metadata in the shortest decimal form of its float32 value.

        Args:
            key: The key.
            default: The value if the file has none; None for an error.

        Raises:
            UserError: If the file has none and there is no default, or it has another kind of value.
        """
        value = float(self._number(key, default))
        if not np.isfinite(value):
            raise self.error(f"has no finite {key} in its metadata")
        return float(str(np.float32(value)))

    def boolean(self, key: str, default: bool) -> bool:
        """Return a truth value of the metadata.

        Args:
            key: The key.
            default: The value if the file has none.
        """
        value = self.metadata.get(key)
        return value if isinstance(value, bool) else default

    def strings(self, key: str) -> list[str] | None:
        """Return a list of texts of the metadata, or None if there is none.

        Args:
            key: The key.

        Raises:
            UserError: If a text is not UTF-8.
        """
        value = self.metadata.get(key)
        if not isinstance(value, MetadataArray) or value.element_type != GGUFValueType.STRING:
            return None
        return read_strings(self.path, value)

    def numbers(self, key: str) -> np.ndarray | None:
        """Return an array of numbers of the metadata, or None if there is none.

        Args:
            key: The key.

        Returns:
            The numbers [length], or None.
        """
        value = self.metadata.get(key)
        if not isinstance(value, MetadataArray) or value.element_type == GGUFValueType.STRING:
            return None
        return read_numbers(self.path, value)

    def error(self, what: str, hint: str = "name another model") -> UserError:
        """Return an error about this file.

        Args:
            what: What is wrong.
            hint: What to do about it.
        """
        return UserError(what, self.path, hint)

    def _number(self, key: str, default: float | None) -> float | int | bool:
        value = self.metadata.get(key, default)
        if isinstance(value, MetadataArray):
            numbers = self.numbers(key)
            if numbers is None or len(numbers) == 0 or (numbers != numbers[0]).any():
                raise self.error(f"has different values of {key} for its layers, which is not supported")
            value = numbers[0].item()
        if not isinstance(value, int | float):
            raise self.error(f"has no number as {key} in its metadata")
        return value


def read_gguf(path: Path) -> GGUFFile:
    """Read what a GGUF file says about its model, and where its tensors are; no weight is read.

    Args:
        path: The file, or any file of a model that is split into several.

    Raises:
        UserError: If it is not a complete GGUF file, or a part of a split model is missing.
    """
    if _UNFINISHED.search(path.name):
        raise UserError("is still being downloaded", path, "wait until the download has finished")
    first = read_header(path)
    headers = _read_parts(first)
    tensors = [tensor for header in headers for tensor in header.tensors]
    names = Counter(tensor.name for tensor in tensors)
    if tensors and (repeated := names.most_common(1)[0])[1] > 1:
        raise UserError(f"is a damaged GGUF file: the tensor {quoted(repeated[0])} twice", path, "download it again")
    size_bytes = sum(header.size_bytes for header in headers)
    file = GGUFFile(tuple(header.path for header in headers), headers[0].metadata, tuple(tensors), size_bytes)
    file.required_string("general.architecture")
    return file


def file_hash(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of the content of files, one after the other, in hexadecimal.

    Args:
        paths: The files, such as `GGUFFile.paths`.

    Raises:
        UserError: If one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while chunk := file.read(_HASH_CHUNK_BYTES):
                    digest.update(chunk)
        except OSError as error:
            raise from_os_error(error, path) from error
    return digest.hexdigest()


def _read_parts(header: Header) -> list[Header]:
    """Return the headers of all parts of a split model, or the one header of any other."""
    count = header.metadata.get("split.count", 1)
    if not isinstance(count, int) or count <= 1:
        return [header]
    path, match = header.path, _PART_NAME.match(header.path.name)
    if match is None or int(match["count"]) != count or count > _MAX_PARTS:
        hint = "keep the names that the parts were downloaded under, such as model-00001-of-00002.gguf"
        raise UserError(f"is one of {count} parts of a model, and its name does not say which", path, hint)
    headers = []
    for number in range(1, count + 1):
        part = path.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf")
        if not part.exists():
            raise UserError(f"part {number} of {count} of this model is missing", part, "download all of its parts")
        part_header = header if part == path else read_header(part)
        if part_header.metadata.get("split.no") != number - 1 or part_header.metadata.get("split.count") != count:
            raise UserError(f"is not part {number} of {count} of a model", part, "download all of its parts again")
        headers.append(part_header)
    return headers


def _repository(value: str | None) -> str | None:
    """Return the repository that a URL or a name stands for, if it is one of the hub's."""
    if value is None:
        return None
    match = _HUB_URL.match(value.strip())
    name = match["repository"] if match else value.strip()
    return name if _REPOSITORY.fullmatch(name) else None


def _comparable(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
