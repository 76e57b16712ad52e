"""Run a kernel of a few lines once, for the tests of the host machine itself."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from . import on_host


def run(
    source: str,
    *inputs: Any,
    shape: tuple[int, ...] = (64,),
    dtype: mx.Dtype = mx.float32,
    shapes: list[tuple[int, ...]] | None = None,
    dtypes: list[mx.Dtype] | None = None,
    grid: tuple[int, int, int] = (64, 1, 1),
    threadgroup: tuple[int, int, int] = (64, 1, 1),
    header: str = "",
    options: dict[str, Any] | None = None,
    machine: dict[str, Any] | None = None,
    **call: Any,
) -> Any:
    """Return the outputs `y`, `z`, `w` of a kernel with the inputs `a`, `b`, `c`; a single output is not in a list."""
    shapes = shapes or [shape]
    dtypes = dtypes or [dtype] * len(shapes)
    with on_host(**(machine or {})):
        make_kernel: Any = mx.fast.metal_kernel
        kernel = make_kernel(
            name="small",
            input_names=list("abc"[: len(inputs)]),
            output_names=list("yzw"[: len(shapes)]),
            source=source,
            header=header,
            **(options or {}),
        )
        outputs = kernel(
            inputs=list(inputs), grid=grid, threadgroup=threadgroup, output_shapes=shapes, output_dtypes=dtypes, **call
        )
    return outputs[0] if len(outputs) == 1 else outputs
