"""Convert tensors from GGUF's storage types to MLX's: affine groups of 32 weights where that is exact, else dense.

An affine group stores each weight as an unsigned integer q with q * scale + bias. GGUF's types are such groups, with
other bit orders and offsets, except Q6_K, whose groups have 16 weights:

| GGUF type | in MLX | scale and bias | equal to GGUF's weights |
|---|---|---|---|
| F32, F16, BF16 | dense | | exactly in float32; rounded in a smaller dtype |
| Q8_0 | 8 bits | d, -128 d | exactly with float32 or float16 scales |
| Q4_0 | 4 bits | d, -8 d | exactly with float32 or float16 scales |
| Q5_0 | 5 bits | d, -16 d | exactly with float32 or float16 scales |
| Q4_1, Q5_1 | 4, 5 bits | d, m | exactly with float32 or float16 scales |
| Q4_K, Q5_K | 4, 5 bits | d * scale, -dmin * min: products of 11 and 6 bits | exactly with float32 scales only |
| Q6_K | dense, or 8 bits again | | exactly as dense float32 only |

"Exactly" is meant of the stored numbers: a product in float16 is rounded once more when it is computed. In float16, a
tensor whose scales or biases overflow keeps float32. Every other type is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gguf
import mlx.core as mx
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from mlx_personal.errors import UserError, from_os_error
from mlx_personal.models.gguf.header import TensorInfo

GROUP_SIZE = 32
DENSE_TYPES = frozenset({GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16})
_K_BLOCK_GROUPS = 8  # groups of 32 weights in a block of the K types


@dataclass(frozen=True)
class AffineWeights:
    """A matrix in MLX's affine quantization, in groups of 32 weights along each row.

    Attributes:
        packed: Weights [rows, columns * bits / 32], uint32.
        scales: Scales [rows, columns / 32], float32.
        biases: Biases [rows, columns / 32], float32.
        bits: Bits of a weight.
    """

    packed: np.ndarray
    scales: np.ndarray
    biases: np.ndarray
    bits: int


def is_supported(tensor_type: GGMLQuantizationType) -> bool:
    """Return whether tensors of a storage type can be converted.

    Args:
        tensor_type: The type.
    """
    return tensor_type in DENSE_TYPES or tensor_type in _AFFINE_TYPES or tensor_type == GGMLQuantizationType.Q6_K


def affine_bits(tensor_type: GGMLQuantizationType) -> int | None:
    """Return the bits of the affine groups that hold a storage type exactly, or None if there are none.

    Args:
        tensor_type: The type.
    """
    return _AFFINE_TYPES[tensor_type][0] if tensor_type in _AFFINE_TYPES else None


def read_rows(tensor: TensorInfo, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Read the stored bytes of some of a tensor's rows.

    Args:
        tensor: The tensor.
        start: The first row.
        stop: The row after the last one; None for all.

    Returns:
        The bytes [rows, bytes of a row], uint8; a tensor of one dimension is one row.

    Raises:
        UserError: If the file cannot be read.
    """
    row_count = tensor.parameter_count // tensor.shape[-1]
    row_bytes = tensor.size_bytes // row_count
    stop = row_count if stop is None else stop
    try:
        data = np.fromfile(tensor.path, np.uint8, (stop - start) * row_bytes, offset=tensor.offset + start * row_bytes)
    except OSError as error:
        raise from_os_error(error, tensor.path) from error
    if data.size != (stop - start) * row_bytes:
        raise UserError("became shorter while it was read", tensor.path, "download it again")
    return data.reshape(stop - start, row_bytes)


def to_affine(rows: np.ndarray, tensor_type: GGMLQuantizationType) -> AffineWeights:
    """Repack a quantized matrix into affine groups that hold the same weights.

    Args:
        rows: The matrix's blocks [rows, bytes of a row], uint8.
        tensor_type: A type that `affine_bits` has bits for.
    """
    bits, unpack = _AFFINE_TYPES[tensor_type]
    blocks = rows.reshape(-1, GGML_QUANT_SIZES[tensor_type][1])
    quants, scales, biases = unpack(blocks)
    row_count = len(rows)
    return AffineWeights(
        _pack(quants, bits).reshape(row_count, -1),
        scales.reshape(row_count, -1),
        biases.reshape(row_count, -1),
        bits,
    )


def to_float32(rows: np.ndarray, tensor_type: GGMLQuantizationType) -> np.ndarray:
    """Dequantize a matrix, or convert it, to float32.

    Args:
        rows: The matrix's bytes [rows, bytes of a row], uint8.
        tensor_type: A supported type.

    Returns:
        The weights [rows, columns], float32.
    """
    # The library loops over groups of 16 rows, so a row that holds everything is one pass.
    with np.errstate(invalid="ignore"):  # scales that are not finite are the caller's to find
        weights: np.ndarray = gguf.quants.dequantize(rows.reshape(1, -1), tensor_type)
    return weights.reshape(len(rows), -1)


def quantize(weights: np.ndarray, bits: int) -> AffineWeights:
    """Quantize a matrix to affine groups, which rounds its weights.

    Args:
        weights: The weights [rows, columns], float32.
        bits: Bits of a weight.
    """
    packed, scales, biases = mx.quantize(mx.array(weights), group_size=GROUP_SIZE, bits=bits)
    return AffineWeights(np.array(packed), np.array(scales), np.array(biases), bits)


def _pack(quants: np.ndarray, bits: int) -> np.ndarray:
    """Pack groups [groups, 32] of uint8 as MLX does: without gaps, from the lowest bit of each byte."""
    if bits == 8:
        packed = np.ascontiguousarray(quants)
    elif bits == 4:
        packed = quants[:, 0::2] | (quants[:, 1::2] << np.uint8(4))
    else:
        # Eight weights are the bytes of one word. Close the gaps between two neighbors, then pairs, then fours.
        words = np.ascontiguousarray(quants).view(np.uint64)
        for width, mask in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0x00000000FFFFFFFF)):
            gap = np.uint64(width - width * bits // 8)
            words = (words & np.uint64(mask)) | ((words & np.uint64(mask << width)) >> gap)
        packed = np.ascontiguousarray(words[..., None].view(np.uint8)[..., :bits])
    return packed.reshape(len(quants), -1).view(np.uint32)


def _float16(columns: np.ndarray) -> np.ndarray:
    """Return float16 numbers in byte columns [blocks, 2] as float32 [blocks, 1]."""
    return np.ascontiguousarray(columns).view(np.float16).astype(np.float32)


def _nibbles(columns: np.ndarray) -> np.ndarray:
    """Return the low halves of bytes [..., n], then the high halves: [..., 2 n]."""
    return np.concatenate([columns & np.uint8(0x0F), columns >> np.uint8(4)], axis=-1)


def _with_fifth_bits(blocks: np.ndarray, start: int) -> np.ndarray:
    """Return the 5-bit weights of Q5_0 and Q5_1, whose fifth bits are 4 bytes from column `start` on."""
    fifth = np.unpackbits(np.ascontiguousarray(blocks[:, start : start + 4]), axis=-1, bitorder="little")
    return _nibbles(blocks[:, start + 4 :]) | (fifth << np.uint8(4))


_Unpacked = tuple[np.ndarray, np.ndarray, np.ndarray]


def _unpack_q8_0(blocks: np.ndarray) -> _Unpacked:
    scales = _float16(blocks[:, :2])
    return blocks[:, 2:] ^ np.uint8(0x80), scales, scales * -128  # adds 128 to an int8


def _unpack_q4_0(blocks: np.ndarray) -> _Unpacked:
    scales = _float16(blocks[:, :2])
    return _nibbles(blocks[:, 2:]), scales, scales * -8


def _unpack_q4_1(blocks: np.ndarray) -> _Unpacked:
    return _nibbles(blocks[:, 4:]), _float16(blocks[:, :2]), _float16(blocks[:, 2:4])


def _unpack_q5_0(blocks: np.ndarray) -> _Unpacked:
    scales = _float16(blocks[:, :2])
    return _with_fifth_bits(blocks, 2), scales, scales * -16


def _unpack_q5_1(blocks: np.ndarray) -> _Unpacked:
    return _with_fifth_bits(blocks, 4), _float16(blocks[:, :2]), _float16(blocks[:, 2:4])


def _k_scales(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scales and biases [blocks, 8] of Q4_K and Q5_K.

    The 12 bytes from column 4 on hold 8 scales and 8 minima of 6 bits: those of the first four groups in the low bits
    of bytes 0-3 and 4-7; those of the others in the halves of bytes 8-11, with their high bits in the bytes before.
    """
    scales, minima, others = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    low, high = np.uint8(0x0F), np.uint8(0x30)
    scale_quants = np.concatenate([scales & 0x3F, (others & low) | ((scales >> np.uint8(2)) & high)], axis=-1)
    minimum_quants = np.concatenate(
        [minima & 0x3F, (others >> np.uint8(4)) | ((minima >> np.uint8(2)) & high)], axis=-1
    )
    return _float16(blocks[:, :2]) * scale_quants, -(_float16(blocks[:, 2:4]) * minimum_quants)


def _unpack_q4_k(blocks: np.ndarray) -> _Unpacked:
    return _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 32), *_k_scales(blocks)


def _unpack_q5_k(blocks: np.ndarray) -> _Unpacked:
    low = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, _K_BLOCK_GROUPS, 32)
    # Bit g of byte i is the fifth bit of weight i of group g.
    shifts = np.arange(_K_BLOCK_GROUPS, dtype=np.uint8)[:, None]
    fifth = (blocks[:, 16:48][:, None, :] >> shifts) & np.uint8(1)
    return (low | (fifth << np.uint8(4))).reshape(-1, 32), *_k_scales(blocks)


_AFFINE_TYPES: dict[GGMLQuantizationType, tuple[int, Callable[[np.ndarray], _Unpacked]]] = {
    GGMLQuantizationType.Q8_0: (8, _unpack_q8_0),
    GGMLQuantizationType.Q4_0: (4, _unpack_q4_0),
    GGMLQuantizationType.Q4_1: (4, _unpack_q4_1),
    GGMLQuantizationType.Q5_0: (5, _unpack_q5_0),
    GGMLQuantizationType.Q5_1: (5, _unpack_q5_1),
    GGMLQuantizationType.Q4_K: (4, _unpack_q4_k),
    GGMLQuantizationType.Q5_K: (5, _unpack_q5_k),
}
