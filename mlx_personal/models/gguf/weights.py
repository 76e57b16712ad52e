"""Convert one tensor of a GGUF file to MLX's arrays, a few million weights at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import mlx.core as mx
import numpy as np
from gguf.constants import GGMLQuantizationType

from mlx_personal.errors import UserError, quoted
from mlx_personal.models.gguf.blocks import (
    DENSE_TYPES,
    AffineWeights,
    affine_bits,
    quantize,
    read_rows,
    to_affine,
    to_float32,
)
from mlx_personal.models.gguf.header import TensorInfo

_CHUNK_WEIGHTS = 1 << 17  # fits the cache of a core
_THREADS = min(8, os.cpu_count() or 1)
_T = TypeVar("_T")
_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_STORED_DTYPES = {GGMLQuantizationType.F16: mx.float16, GGMLQuantizationType.BF16: mx.bfloat16}


@dataclass(frozen=True)
class Precision:
    """In which numbers a model is stored, and so computed on a GPU.

    Attributes:
        dtype: `float32`, `float16` or `bfloat16`: dtype of scales and of weights that are not quantized. With float32
            everything that can be repacked is exact, and float16 and bfloat16 weights stay as they are.
        requantize_bits: Bits to which Q6_K is quantized again, as it fits no affine group; None to dequantize it.
    """

    dtype: str = "float32"
    requantize_bits: int | None = None


def stored_bits(tensor: TensorInfo, precision: Precision) -> int | None:
    """Return the bits of the affine groups in which a tensor is stored, or None for dense weights.

    Args:
        tensor: The tensor.
        precision: The numbers to store.
    """
    if len(tensor.shape) != 2 or tensor.type in DENSE_TYPES:
        return None
    return affine_bits(tensor.type) or precision.requantize_bits


def convert_tensor(
    tensor: TensorInfo, precision: Precision, order: np.ndarray | None = None, added: float = 0.0
) -> dict[str, mx.array]:
    """Return a tensor as MLX's layers have it.

    Args:
        tensor: The tensor.
        precision: The numbers to store.
        order: For each row its place in the file [rows]; None if rows stay in order.
        added: A number that is added to each weight of a tensor that is not quantized.

    Returns:
        `weight`, and for affine groups `scales` and `biases`.

    Raises:
        UserError: If a weight is not a finite number, or the file cannot be read.
    """
    bits = stored_bits(tensor, precision)
    if bits is None:
        return {"weight": _dense(tensor, precision, order, added)}
    groups = list(_affine(tensor, order, bits))
    dtype = _DTYPES[precision.dtype]
    scales, biases = _concatenated([g.scales for g in groups]), _concatenated([g.biases for g in groups])
    if not (_is_finite(scales.astype(dtype)) and _is_finite(biases.astype(dtype))):
        dtype = mx.float32
    return {
        "weight": _concatenated([g.packed for g in groups]),
        "scales": scales.astype(dtype),
        "biases": biases.astype(dtype),
    }


def _affine(tensor: TensorInfo, order: np.ndarray | None, bits: int) -> Iterator[AffineWeights]:
    if affine_bits(tensor.type) is None:
        for weights in _map_rows(lambda rows: _finite(tensor, to_float32(rows, tensor.type)), tensor, order):
            yield quantize(weights, bits)
        return
    for groups in _map_rows(lambda rows: to_affine(rows, tensor.type), tensor, order):
        _finite(tensor, groups.scales)
        _finite(tensor, groups.biases)
        yield groups


def _dense(tensor: TensorInfo, precision: Precision, order: np.ndarray | None, added: float) -> mx.array:
    dtype = _DTYPES[precision.dtype]
    if precision.dtype == "float32" and not added:
        dtype = _STORED_DTYPES.get(tensor.type, dtype)
    # A vector's elements, not its one row, are in the order of the model's rows.
    is_vector = len(tensor.shape) == 1
    chunks = []
    for weights in _map_rows(
        lambda rows: _finite(tensor, to_float32(rows, tensor.type)), tensor, None if is_vector else order
    ):
        ordered = weights[:, order] if is_vector and order is not None else weights
        converted = mx.array(ordered + np.float32(added) if added else ordered).astype(dtype)
        if not _is_finite(converted):
            return _dense(tensor, Precision("float32"), order, added)
        chunks.append(converted)
    dense = chunks[0] if len(chunks) == 1 else mx.concatenate(chunks)
    return dense.reshape(tensor.shape)


def _map_rows(function: Callable[[np.ndarray], _T], tensor: TensorInfo, order: np.ndarray | None) -> Iterator[_T]:
    """Yield what a function returns for the bytes of some rows, for all rows in order, computed in threads."""
    row_count = tensor.parameter_count // tensor.shape[-1]
    chunk_rows = max(1, _CHUNK_WEIGHTS // tensor.shape[-1])
    # Only query and key projections are put in order, and those are small enough to be read at once.
    all_rows = None if order is None else read_rows(tensor)[order]

    def run(start: int) -> _T:
        stop = min(start + chunk_rows, row_count)
        return function(read_rows(tensor, start, stop) if all_rows is None else all_rows[start:stop])

    starts = iter(range(0, row_count, chunk_rows))
    # NumPy releases Python's lock. A few chunks for each thread at a time bound the memory.
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(islice(starts, 4 * _THREADS)):
            yield from pool.map(run, batch)


def _concatenated(parts: Sequence[np.ndarray]) -> mx.array:
    return mx.array(parts[0] if len(parts) == 1 else np.concatenate(parts))


def _is_finite(array: mx.array) -> bool:
    return bool(mx.isfinite(array).all().item())


def _finite(tensor: TensorInfo, numbers: np.ndarray) -> np.ndarray:
    if not np.isfinite(numbers).all():
        raise UserError(
            f"the tensor {quoted(tensor.name)} has weights that are not finite numbers",
            tensor.path,
            "download it again",
        )
    return numbers
