"""From a `.metal` file to a kernel: on Metal the text as it stands, on CUDA the same text behind `cuda.h`.

A file holds helper functions, then the line `// ---- body ----`, then the body of the kernel, around which MLX writes
the signature. `#include "NAME.h"` is replaced by that file, since MLX compiles a text, not a folder.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import mlx.core as mx

from mlx_personal.runtime.device import device_name

Kernel = Callable[..., list[mx.array]]


def _sources() -> Path:
    """The folder of the Metal sources: package data of an installation, or `kernels/` at the root of a source tree."""
    installed = Path(__file__).parent / "metal"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "kernels"


FLOATS: Final = (mx.float32, mx.float16, mx.bfloat16)
# Lanes of a simdgroup, the same on every GPU of Apple's and NVIDIA's.
SIMD_WIDTH: Final = 32
_FOLDER: Final = _sources()
_BODY: Final = "// ---- body ----\n"


def on_gpu() -> bool:
    """Whether MLX computes by default where the kernels run."""
    return device_name() != "cpu"


@functools.cache
def build(name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Kernel:
    """The kernel of `NAME.metal` for the default device, built once; the names are those its body uses."""
    header, body = read_source(name)
    make: Any = mx.fast.metal_kernel
    if device_name() == "cuda":
        header, body = (_FOLDER / "cuda.h").read_text() + in_cuda(header), in_cuda(body)
        make = mx.fast.cuda_kernel
    return make(name=f"mlx_personal_{name}", input_names=inputs, output_names=outputs, source=body, header=header)


def read_source(name: str) -> tuple[str, str]:
    """(helper functions, body) of `NAME.metal`, without comments, includes filled in."""
    header, _, body = (_FOLDER / f"{name}.metal").read_text().partition(_BODY)
    while "#include" in header:
        header = re.sub(r'#include "(.+)"\n', lambda match: (_FOLDER / match[1]).read_text(), header)
    return _without_comments(header), _without_comments(body)


def in_cuda(source: str) -> str:
    """Metal text as CUDA: no address spaces, `__shared__` where threadgroup memory is declared.

    By text: a macro named `device` would also replace the word inside CUDA's own `__device__`.
    """
    source = re.sub(r"\b(device|constant|thread) ", "", source)
    return re.sub(r"\bthreadgroup ", "__shared__ ", source)


def check_matrix(name: str, array: mx.array, ndim: int = 2) -> None:
    """ValueError naming the argument unless it is a float array of so many dimensions, none of the inner ones 0."""
    if array.ndim != ndim or 0 in array.shape[1:]:
        shape = "[rows, dimensions]" if ndim == 2 else "[dialogues, tokens, dimensions]"
        raise ValueError(f"{name} has the shape {shape}, not {list(array.shape)}")
    if array.dtype not in FLOATS:
        raise ValueError(f"{name} is float32, float16 or bfloat16, not {dtype_name(array)}")


def check_integers(name: str, array: mx.array, size: int) -> None:
    """ValueError naming the argument unless it is an int32 array of the shape [size]."""
    if array.shape != (size,):
        raise ValueError(f"{name} has the shape [{size}], not {list(array.shape)}")
    if array.dtype != mx.int32:
        raise ValueError(f"{name} is int32, not {dtype_name(array)}")


def check_dialogues(states: mx.array, lengths: mx.array) -> None:
    """ValueError naming the argument unless states are [B, T, D] and lengths int32 [B]."""
    check_matrix("states", states, ndim=3)
    check_integers("lengths", lengths, len(states))


def dtype_name(array: mx.array) -> str:
    """`float32`, where MLX says `mlx.core.float32`."""
    return str(array.dtype).rpartition(".")[2]


def _without_comments(source: str) -> str:
    # MLX adds an argument for each word such as `x_shape` that it finds in a body, comments included.
    return re.sub(r"[ \t]*//.*", "", source)
