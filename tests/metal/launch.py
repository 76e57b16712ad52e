"""One launch of a kernel as MLX would hand it to Metal: the generated text, the grid and the bytes of each buffer."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

# An integer type of the same size, because NumPy has no bfloat16.
BITS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}
SIGNATURE = re.compile(r"\[\[kernel\]\] void \w+\((.*?)\) \{\n", re.DOTALL)
PARAMETER = re.compile(r"[\s,]*(.+?)\s*\b(\w+) \[\[(\w+)(?:\(\d+\))?\]\]", re.DOTALL)
INSTANCE = re.compile(r"\[\[kernel\]\] decltype\((.*)\) ", re.DOTALL)


@dataclass(frozen=True)
class Buffer:
    """The memory behind one pointer or reference of the kernel's signature.

    Attributes:
        name: Name of the parameter.
        role: `input`, `output`, or `filled`: an output with an init_value.
        element: Bytes of an element.
        scalar: Bytes of its smallest part: half an element if it is complex.
        contents: The bytes.
        origin: Byte of `contents` that the kernel's pointer points to.
    """

    name: str
    role: str
    element: int
    scalar: int
    contents: bytes
    origin: int = 0


@dataclass(frozen=True)
class Launch:
    """A launch of a kernel.

    Attributes:
        name: Name of the kernel.
        text: The text that MLX generates.
        grid: Number of threads in each direction.
        threadgroup: Number of threads of a threadgroup in each direction.
        buffers: The memory behind the parameters, in their order.
        output_shapes: Shapes of the outputs.
        output_dtypes: Dtypes of the outputs.
    """

    name: str
    text: str
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    buffers: list[Buffer]
    output_shapes: list[tuple[int, ...]]
    output_dtypes: list[mx.Dtype]

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """The type and name of each parameter of the generated signature, in order."""
        return parameters(self.text)

    @property
    def instance(self) -> str:
        """The kernel's name with its template arguments."""
        match = INSTANCE.search(self.text)
        return match[1] if match else self.name


def parameters(text: str) -> list[tuple[str, str]]:
    """Return the type and name of each parameter of the generated signature, in order."""
    signature = SIGNATURE.search(text)
    assert signature, "MLX generates a signature"
    return [(p[1], p[2]) for p in PARAMETER.finditer(signature[1])]


def is_buffer(parameter_type: str) -> bool:
    """Return whether a parameter of this type is a buffer."""
    return parameter_type.endswith(("*", "&"))


def captured(kernel: Callable[..., list[mx.array]], inputs: list[mx.array], arguments: dict[str, Any]) -> Launch:
    """Return the launch that MLX generates for these inputs.

    Args:
        kernel: The kernel.
        inputs: Its inputs.
        arguments: All other keyword arguments of the call.
    """
    primitives: list[dict[str, Any]] = []

    def keep(entry: dict[str, Any]) -> None:
        if entry.get("name") == "CustomKernel":
            primitives.append(entry)

    mx.export_function(keep, lambda *xs: kernel(inputs=list(xs), **arguments), *inputs)
    (primitive,) = primitives
    name, text, gx, gy, gz, tx, ty, tz, _, row_contiguous, *_ = primitive["arguments"]
    shapes = [shape for _, shape, _ in primitive["outputs"]]
    dtypes = [dtype for _, _, dtype in primitive["outputs"]]
    names = [parameter for kind, parameter in parameters(text) if is_buffer(kind)]
    input_names, output_names = split_names(names, inputs, len(shapes))
    buffers: dict[str, Buffer] = {}
    for parameter, array in zip(input_names, inputs, strict=True):
        buffers |= input_buffers(parameter, array, row_contiguous)
    for parameter, shape, dtype in zip(output_names, shapes, dtypes, strict=True):
        buffers[parameter] = output_buffer(parameter, shape, dtype, arguments.get("init_value"))
    return Launch(name, text, (gx, gy, gz), (tx, ty, tz), [buffers[n] for n in names], shapes, dtypes)


def split_names(names: list[str], inputs: list[mx.array], outputs: int) -> tuple[list[str], list[str]]:
    """Split the names of all buffers into inputs and outputs, without `x_shape` and the like, which follow `x`."""
    arrays: list[str] = []
    for name in names[: len(names) - outputs]:
        if not arrays or name not in {f"{arrays[-1]}_{suffix}" for suffix in ("shape", "strides", "ndim")}:
            arrays.append(name)
    assert len(arrays) == len(inputs), "MLX lists every input once"
    return arrays, names[len(names) - outputs :]


def input_buffers(name: str, array: mx.array, row_contiguous: bool) -> dict[str, Buffer]:
    """Return an input's buffer and those that describe its layout.

    If `row_contiguous`, MLX copies an input that is not.
    """
    view = as_bits(array)
    if row_contiguous and not view.flags.c_contiguous:
        view = np.ascontiguousarray(view)
    contents, origin = bytes_of(view)
    scalar = 4 if array.dtype == mx.complex64 else array.itemsize
    buffers = {name: Buffer(name, "input", array.itemsize, scalar, contents, origin)}
    layout: dict[str, np.ndarray] = {
        "shape": np.array(view.shape, np.int32),
        "strides": np.array(view.strides, np.int64) // array.itemsize,
        "ndim": np.array(view.ndim, np.int32),
    }
    for suffix, values in layout.items():
        key = f"{name}_{suffix}"
        buffers[key] = Buffer(key, "input", values.itemsize, values.itemsize, values.tobytes())
    return buffers


def bytes_of(view: np.ndarray) -> tuple[bytes, int]:
    """Return all bytes from the first to the last element in memory, and the offset of element 0 in them."""
    if view.size == 0:
        return b"", 0
    reach = [(n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True)]
    below = -sum(r for r in reach if r < 0)
    above = sum(r for r in reach if r > 0) + view.itemsize
    return ctypes.string_at(view.ctypes.data - below, below + above), below


def output_buffer(name: str, shape: tuple[int, ...], dtype: mx.Dtype, init_value: float | None) -> Buffer:
    """Return an output's buffer before the launch."""
    size = math.prod(shape)
    scalar = 4 if dtype == mx.complex64 else dtype.size
    if init_value is not None:
        filled = mx.contiguous(mx.broadcast_to(mx.array(init_value).astype(dtype), (size,)))
        return Buffer(name, "filled", dtype.size, scalar, as_bits(filled).tobytes())
    # All bits set, which is NaN in every floating-point type.
    return Buffer(name, "output", dtype.size, scalar, b"\xff" * (size * dtype.size))


def as_bits(array: mx.array) -> np.ndarray:
    """Return a view of the array as integers of the same size, with its strides."""
    data: Any = array.view(BITS[array.dtype.size])
    return np.asarray(memoryview(data))


def array_of(contents: bytes, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """Return the array with these bytes."""
    bits = np.frombuffer(contents, f"u{dtype.size}").copy()
    return mx.array(bits).view(dtype).reshape(shape)
