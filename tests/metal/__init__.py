"""A host machine for MLX's Metal kernels: compile and run, on Linux, the very text that a Mac would compile.

    with metal.on_host():
        kernel = mx.fast.metal_kernel(...)
        (out,) = kernel(inputs=[...], grid=..., threadgroup=..., output_shapes=[...], output_dtypes=[...])

What Metal forbids or leaves undefined raises a `Fault` that names the line. README.md lists what is detected and what
is not.
"""

from .compiler import why_not
from .fault import Fault
from .host import on_host

__all__ = ["Fault", "on_host", "why_not"]
