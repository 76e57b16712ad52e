"""Convert one tensor of a GGUF file to MLX's arrays, a few million weights at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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

_CHUNK_WEIGHTS = 1 << 21
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
    groups = [_affine(tensor, rows, bits) for rows in _row_chunks(tensor, order)]
    dtype = _DTYPES[precision.dtype]
    scales, biases = _concatenated([g.scales for g in groups]), _concatenated([g.biases for g in groups])
    if not (_is_finite(scales.astype(dtype)) and _is_finite(biases.astype(dtype))):
        dtype = mx.float32
    return {
        "weight": _concatenated([g.packed for g in groups]),
        "scales": scales.astype(dtype),
        "biases": biases.astype(dtype),
    }


def _affine(tensor: TensorInfo, rows: np.ndarray, bits: int) -> AffineWeights:
    is_exact = affine_bits(tensor.type) is not None
    weights = (
        to_affine(rows, tensor.type) if is_exact else quantize(_finite(tensor, to_float32(rows, tensor.type)), bits)
    )
    _finite(tensor, weights.scales)
    _finite(tensor, weights.biases)
    return weights


def _dense(tensor: TensorInfo, precision: Precision, order: np.ndarray | None, added: float) -> mx.array:
    dtype = _DTYPES[precision.dtype]
    if precision.dtype == "float32" and not added:
        dtype = _STORED_DTYPES.get(tensor.type, dtype)
    # A vector's elements, not its one row, are in the order of the model's rows.
    is_vector = len(tensor.shape) == 1
    chunks = []
    for rows in _row_chunks(tensor, None if is_vector else order):
        weights = _finite(tensor, to_float32(rows, tensor.type))
        if is_vector and order is not None:
            weights = weights[:, order]
        converted = mx.array(weights + np.float32(added) if added else weights).astype(dtype)
        if not _is_finite(converted):
            return _dense(tensor, Precision("float32"), order, added)
        chunks.append(converted)
    dense = chunks[0] if len(chunks) == 1 else mx.concatenate(chunks)
    return dense.reshape(tensor.shape)


def _row_chunks(tensor: TensorInfo, order: np.ndarray | None) -> Iterator[np.ndarray]:
    row_count = tensor.parameter_count // tensor.shape[-1]
    chunk_rows = max(1, _CHUNK_WEIGHTS // tensor.shape[-1])
    # Only query and key projections are put in order, and those are small enough to be read at once.
    all_rows = None if order is None else read_rows(tensor)[order]
    for start in range(0, row_count, chunk_rows):
        stop = min(start + chunk_rows, row_count)
        yield read_rows(tensor, start, stop) if all_rows is None else all_rows[start:stop]


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
