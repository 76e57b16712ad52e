"""Read the header of one GGUF file: its metadata and the place of every tensor.

The library `gguf` reads a header without bounds: a damaged count makes it allocate or loop without end, and it takes
10 s and 0.7 GB for a vocabulary of 262,144 tokens. Here every count, length and offset is checked against the file
before it is used, arrays are skipped and decoded only on request, and no weight is read.

References:
    The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from mlx_personal.errors import UserError, from_os_error, quoted

Scalar = str | int | float | bool

_MAGIC = b"GGUF"
_OLDER_MAGICS = (b"lmgg", b"fmgg", b"tjgg", b"algg")  # ggml, ggmf, ggjt and ggla, as bytes in a file
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32

# Far above what any model has; they bound the time that a damaged file can take.
_MAX_KEYS = 65_536
_MAX_TENSORS = 65_536
_MAX_KEY_BYTES = 65_535
_MAX_STRING_BYTES = 1 << 24
_MAX_ARRAY_STRINGS = 1 << 24  # in all arrays together
_MAX_ALIGNMENT = 1 << 20
_MAX_DIMENSIONS = 4

_NUMBER_FORMATS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.FLOAT64: "d",
    GGUFValueType.BOOL: "?",
}


@dataclass(frozen=True)
class MetadataArray:
    """An array in a file's metadata, which is decoded by `read_numbers` or `read_strings`.

    Attributes:
        element_type: The type of its elements: a number type or STRING.
        length: Number of elements.
        offset: Position of the first element in the file, in bytes.
    """

    element_type: GGUFValueType
    length: int
    offset: int


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies, and how it is stored.

    Attributes:
        name: Its name, such as `blk.0.attn_q.weight`.
        type: Its storage type.
        shape: Its shape, with rows first, as in MLX.
        path: The file that it is in.
        offset: Position of its first byte in that file.
        size_bytes: Number of bytes that it takes.
    """

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    path: Path
    offset: int
    size_bytes: int

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The header of one file.

    Attributes:
        path: The file.
        size_bytes: Size of the file.
        metadata: Values by key.
        tensors: The tensors that the file holds.
    """

    path: Path
    size_bytes: int
    metadata: dict[str, Scalar | MetadataArray]
    tensors: tuple[TensorInfo, ...]


def read_header(path: Path) -> Header:
    """Read and check the header of a file.

    Args:
        path: The file.

    Raises:
        UserError: If it is not a complete GGUF file of version 2 or 3 in little-endian order.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError("is not a file", path, "name a .gguf file")
        with path.open("rb") as file:
            _check_magic(path, file.read(4))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _HeaderReader(path, data).read()
    except OSError as error:
        raise from_os_error(error, path) from error


def read_numbers(path: Path, array: MetadataArray) -> np.ndarray:
    """Decode an array of numbers.

    Args:
        path: The file.
        array: The array, as `read_header` found it in this file.

    Returns:
        The numbers [length].

    Raises:
        UserError: If the file cannot be read.
    """
    dtype = np.dtype(f"<{_NUMBER_FORMATS[array.element_type]}")
    try:
        numbers = np.fromfile(path, dtype, array.length, offset=array.offset)
    except OSError as error:
        raise from_os_error(error, path) from error
    if len(numbers) != array.length:
        raise _cut(path)
    return numbers


def read_strings(path: Path, array: MetadataArray) -> list[str]:
    """Decode an array of strings.

    Args:
        path: The file.
        array: The array, as `read_header` found it in this file.

    Raises:
        UserError: If a string is not UTF-8, or the file cannot be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _HeaderReader(path, data, array.offset)
            return [reader.string(_MAX_STRING_BYTES) for _ in range(array.length)]
    except OSError as error:
        raise from_os_error(error, path) from error


class _HeaderReader:
    """Reads values one after the other, within the bounds of the file."""

    def __init__(self, path: Path, data: mmap.mmap, offset: int = 0):
        self.path, self.data, self.offset = path, data, offset
        self.array_string_count = 0

    def read(self) -> Header:
        self.offset = len(_MAGIC)
        self._check_version()
        tensor_count, key_count = self._integer("Q"), self._integer("Q")
        if tensor_count > _MAX_TENSORS:
            raise _damaged(self.path, f"it counts {tensor_count} tensors")
        if key_count > _MAX_KEYS:
            raise _damaged(self.path, f"it counts {key_count} metadata keys")
        metadata = self._read_metadata(key_count)
        infos = [self._read_tensor_info() for _ in range(tensor_count)]
        tensors = self._locate(infos, _alignment(self.path, metadata))
        return Header(self.path, len(self.data), metadata, tensors)

    def string(self, max_bytes: int) -> str:
        length = self._integer("Q")
        if length > max_bytes:
            raise _damaged(self.path, f"a text of {length} bytes")
        start, self.offset = self.offset, self._advanced(length)
        try:
            return self.data[start : self.offset].decode("utf-8")
        except UnicodeDecodeError as error:
            raise _damaged(self.path, "a text that is not UTF-8") from error

    def _check_version(self) -> None:
        version = self._integer("I")
        if version & 0xFFFF == 0:
            raise UserError(
                "is a GGUF file for big-endian machines", self.path, "download the model for little-endian machines"
            )
        if version not in _VERSIONS:
            raise UserError(
                f"is in version {version} of GGUF, and versions 2 and 3 can be read",
                self.path,
                "download the model in another version",
            )

    def _number(self, form: str) -> int | float | bool:
        """Read one number in a format of `struct`."""
        start, self.offset = self.offset, self._advanced(struct.calcsize(form))
        value: int | float | bool = struct.unpack_from(f"<{form}", self.data, start)[0]
        return value

    def _integer(self, form: str) -> int:
        return int(self._number(form))

    def _advanced(self, byte_count: int) -> int:
        """Return the position after `byte_count` bytes."""
        if byte_count > len(self.data) - self.offset:
            raise _cut(self.path)
        return self.offset + byte_count

    def _value_type(self) -> GGUFValueType:
        number = self._integer("I")
        try:
            return GGUFValueType(number)
        except ValueError as error:
            raise _damaged(self.path, f"a metadata value of the unknown type {number}") from error

    def _read_metadata(self, key_count: int) -> dict[str, Scalar | MetadataArray]:
        metadata: dict[str, Scalar | MetadataArray] = {}
        for _ in range(key_count):
            key = self.string(_MAX_KEY_BYTES)
            if key in metadata:
                raise _damaged(self.path, f"the metadata key {quoted(key)} twice")
            metadata[key] = self._read_value(self._value_type())
        return metadata

    def _read_value(self, value_type: GGUFValueType) -> Scalar | MetadataArray:
        if value_type == GGUFValueType.STRING:
            return self.string(_MAX_STRING_BYTES)
        if value_type == GGUFValueType.ARRAY:
            return self._read_array()
        return self._number(_NUMBER_FORMATS[value_type])

    def _read_array(self) -> MetadataArray:
        element_type, length = self._value_type(), self._integer("Q")
        array = MetadataArray(element_type, length, self.offset)
        if element_type == GGUFValueType.ARRAY:
            raise _damaged(self.path, "an array of arrays in its metadata")
        if element_type == GGUFValueType.STRING:
            self._skip_strings(length)
        else:
            self.offset = self._advanced(length * struct.calcsize(_NUMBER_FORMATS[element_type]))
        return array

    def _skip_strings(self, count: int) -> None:
        self.array_string_count += count
        if self.array_string_count > _MAX_ARRAY_STRINGS:
            raise _damaged(self.path, f"arrays of {self.array_string_count} texts")
        # A vocabulary has hundreds of thousands of them, so this loop calls as little as it can.
        data, offset, last = self.data, self.offset, len(self.data) - 8
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if offset > last:
                raise _cut(self.path)
            offset += 8 + unpack(data, offset)[0]
        self.offset = offset
        self._advanced(0)

    def _read_tensor_info(self) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int]:
        name = self.string(_MAX_KEY_BYTES)
        dimension_count = self._integer("I")
        if not 1 <= dimension_count <= _MAX_DIMENSIONS:
            raise _damaged(self.path, f"the tensor {quoted(name)} of {dimension_count} dimensions")
        shape = tuple(self._integer("Q") for _ in range(dimension_count))[::-1]
        type_number, offset = self._integer("I"), self._integer("Q")
        try:
            return name, GGMLQuantizationType(type_number), shape, offset
        except ValueError as error:
            raise UserError(
                f"the tensor {quoted(name)} is of the unknown type {type_number}",
                self.path,
                "download the model in another quantization, such as Q4_K_M or Q8_0",
            ) from error

    def _locate(
        self, infos: list[tuple[str, GGMLQuantizationType, tuple[int, ...], int]], alignment: int
    ) -> tuple[TensorInfo, ...]:
        start = -(-self.offset // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        for name, tensor_type, shape, offset in infos:
            if name in tensors:
                raise _damaged(self.path, f"the tensor {quoted(name)} twice")
            block_length, block_bytes = GGML_QUANT_SIZES[tensor_type]
            if min(shape) < 1 or shape[-1] % block_length:
                raise _damaged(self.path, f"the tensor {quoted(name)} of shape {list(shape)} in {tensor_type.name}")
            if offset % alignment:
                raise _damaged(self.path, f"the tensor {quoted(name)} at an offset that is not aligned")
            size_bytes = math.prod(shape) // block_length * block_bytes
            tensors[name] = TensorInfo(name, tensor_type, shape, self.path, start + offset, size_bytes)
        in_order = sorted(tensors.values(), key=lambda tensor: tensor.offset)
        for tensor, following in pairwise(in_order):
            if tensor.offset + tensor.size_bytes > following.offset:
                raise _damaged(self.path, f"the tensors {quoted(tensor.name)} and {quoted(following.name)} overlap")
        if in_order and in_order[-1].offset + in_order[-1].size_bytes > len(self.data):
            raise _cut(self.path, in_order[-1].offset + in_order[-1].size_bytes)
        return tuple(tensors.values())


def _check_magic(path: Path, magic: bytes) -> None:
    if magic in _OLDER_MAGICS:
        raise UserError("is in a format from before GGUF", path, "download a newer version of the model, in GGUF")
    if magic != _MAGIC:
        raise UserError("is not a GGUF file" if magic else "is empty", path, "name a .gguf file")


def _alignment(path: Path, metadata: dict[str, Scalar | MetadataArray]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise _damaged(path, "an alignment that is not a power of two")
    return alignment


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"is a damaged GGUF file: {what}", path, "download it again")


def _cut(path: Path, needed_bytes: int | None = None) -> UserError:
    size = "" if needed_bytes is None else f": {path.stat().st_size} of {needed_bytes} bytes"
    return UserError(f"is cut short or still being written{size}", path, "wait for the download, or download it again")
