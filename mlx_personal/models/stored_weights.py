"""The weights of a model as its safetensors files store them, from the headers of the files alone."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_personal.errors import UserError, from_os_error
from mlx_personal.models.model_folder import WEIGHT_FILES

_DTYPE_BYTES = {
    **{"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1},
    **{"I64": 8, "I32": 4, "U32": 4, "U16": 2, "I16": 2, "U8": 1, "I8": 1, "BOOL": 1},
}
_UNKNOWN_DTYPE_BYTES = 4
_MAX_HEADER_BYTES = 100_000_000  # the limit of the format


@dataclass(frozen=True)
class StoredWeight:
    """A weight as a model's files store it.

    Attributes:
        shape: Its shape, unpacked if it is quantized.
        dtype: Name of its dtype in safetensors, such as `BF16`.
        bytes: Its size.
        bits: Number of bits of a quantized weight; None for any other.
        is_scale: Whether it belongs to a quantized weight: its scales, or its biases.
    """

    shape: tuple[int, ...]
    dtype: str
    bytes: int
    bits: int | None = None
    is_scale: bool = False

    @property
    def parameter_count(self) -> int:
        """Number of the model's parameters in it; 0 for scales."""
        return 0 if self.is_scale else math.prod(self.shape)


def stored_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, StoredWeight]:
    """Return the weights of a model folder by their names.

    Args:
        folder: The folder.
        config: The content of its config.json.

    Raises:
        UserError: If a file of weights is cut off or damaged.
    """
    try:
        entries = {name: e for file in sorted(folder.glob(WEIGHT_FILES)) for name, e in _read_header(file).items()}
        quantization = config.get("quantization") or config.get("quantization_config") or {}
        return {name: _stored_weight(name, entries, quantization) for name in entries}
    except OSError as error:
        raise from_os_error(error, folder) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ZeroDivisionError) as error:
        raise UserError("this model's files are damaged", folder, "download it again") from error


def quantization_name(weights: Mapping[str, StoredWeight], config: Mapping[str, Any]) -> str | None:
    """Return how most parameters of a model are stored, such as `4-bit` or `bf16`; None for a model without weights.

    Args:
        weights: The model's weights.
        config: The content of its config.json.
    """
    method = config.get("quantization_config")
    if config.get("quantization") is None and isinstance(method, dict) and "quant_method" in method:
        return str(method["quant_method"])
    counts: Counter[str] = Counter()
    for weight in weights.values():
        counts[weight.dtype.lower() if weight.bits is None else f"{weight.bits}-bit"] += weight.parameter_count
    return counts.most_common(1)[0][0] if counts else None


def _stored_weight(name: str, entries: Mapping[str, Any], quantization: Mapping[str, Any]) -> StoredWeight:
    """Return one weight, given the entries of all weights in the files."""
    dtype, shape = str(entries[name]["dtype"]), tuple(int(size) for size in entries[name]["shape"])
    size = math.prod(shape) * _DTYPE_BYTES.get(dtype, _UNKNOWN_DTYPE_BYTES)
    begin, end = entries[name]["data_offsets"]
    if min(shape, default=0) < 0 or (dtype in _DTYPE_BYTES and end - begin != size):
        raise ValueError("the shape does not fit the data")
    layer, _, parameter = name.rpartition(".")
    if f"{layer}.scales" not in entries:
        return StoredWeight(shape, dtype, size)
    if parameter != "weight" or dtype != "U32":
        return StoredWeight(shape, dtype, size, is_scale=parameter in ("scales", "biases"))
    own = quantization.get(layer)
    bits = int((own if isinstance(own, dict) else quantization).get("bits", 4))
    return StoredWeight((*shape[:-1], shape[-1] * 32 // bits), dtype, size, bits)


def _read_header(file: Path) -> dict[str, Any]:
    """Read the header of a safetensors file: its length in 8 bytes, then JSON."""
    if not file.is_file():  # reading a pipe may never end
        raise ValueError("not a file")
    size = file.stat().st_size
    with file.open("rb") as data:
        length = int.from_bytes(data.read(8), "little")
        if length > min(size - 8, _MAX_HEADER_BYTES):
            raise ValueError("the file is cut off")
        entries: dict[str, Any] = json.loads(data.read(length))
    entries.pop("__metadata__", None)
    if max((entry["data_offsets"][1] for entry in entries.values()), default=0) > size - 8 - length:
        raise ValueError("the file is cut off")
    return entries
