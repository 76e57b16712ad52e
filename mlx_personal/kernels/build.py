"""Build a kernel from its `.metal` file: from the text as it is for Metal, and behind `cuda.h` for CUDA.

A file contains helper functions, then the line `// ---- body ----`, then the body of the kernel, around which MLX
writes the signature. `#include "NAME.h"` is replaced by that file, because MLX compiles a text and not a folder.
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
"""A kernel of `mx.fast.metal_kernel` or `mx.fast.cuda_kernel`."""

# Lanes of a simdgroup, the same on all GPUs of Apple and NVIDIA.
SIMD_WIDTH: Final = 32
_BODY: Final = "// ---- body ----\n"


def find_sources(package: Path) -> Path:
    """Return the folder of the Metal sources.

    Args:
        package: The folder of this package.

    Returns:
        The package data of an installation, or else `kernels/` at the root of the source tree.
    """
    installed = package / "metal"
    return installed if installed.is_dir() else package.parents[1] / "kernels"


_FOLDER: Final = find_sources(Path(__file__).parent)


def on_gpu() -> bool:
    """Return whether MLX's default device can run kernels."""
    return device_name() != "cpu"


@functools.cache
def build_kernel(name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Kernel:
    """Build a kernel for the default device, once.

    Args:
        name: Name of the `.metal` file without its suffix.
        inputs: Names of the inputs in the body.
        outputs: Names of the outputs in the body.

    Returns:
        The kernel.
    """
    header, body = read_source(name)
    make: Any = mx.fast.metal_kernel
    if device_name() == "cuda":
        header, body = (_FOLDER / "cuda.h").read_text() + to_cuda(header), to_cuda(body)
        make = mx.fast.cuda_kernel
    return make(name=f"mlx_personal_{name}", input_names=inputs, output_names=outputs, source=body, header=header)


def read_source(name: str) -> tuple[str, str]:
    """Read a kernel's source, with includes replaced and comments removed.

    Args:
        name: Name of the `.metal` file without its suffix.

    Returns:
        The helper functions and the body.
    """
    header, _, body = (_FOLDER / f"{name}.metal").read_text().partition(_BODY)
    while "#include" in header:
        header = re.sub(r'#include "(.+)"\n', lambda match: (_FOLDER / match[1]).read_text(), header)
    return _without_comments(header), _without_comments(body)


def to_cuda(source: str) -> str:
    """Translate Metal text to CUDA: drop address spaces, and declare threadgroup memory as `__shared__`.

    This is done on the text, because a macro named `device` would also replace the word inside CUDA's `__device__`.

    Args:
        source: The text, without comments.
    """
    source = re.sub(r"\b(device|constant|thread) ", "", source)
    return re.sub(r"\bthreadgroup ", "__shared__ ", source)


def _without_comments(source: str) -> str:
    # MLX adds an argument for each word such as `x_shape` that it finds in a body, comments included.
    return re.sub(r"[ \t]*//.*", "", source)
