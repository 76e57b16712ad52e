"""The device and dtype that MLX computes with on this machine, and the speed of its matrix products."""

from __future__ import annotations

import platform
import resource
import statistics
import sys
import time

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_personal.runtime import blas_threads


def device_name() -> str:
    """Return MLX's default device: `metal`, `cuda` or `cpu`."""
    if mx.default_device() == mx.Device(mx.cpu):
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def chip_name() -> str:
    """Return the manufacturer's name of the chip, or the architecture if the machine does not report it."""
    if device_name() != "cpu":
        return str(mx.device_info().get("device_name", "unknown"))
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def prepare_model(model: nn.Module, lazy: bool = False) -> nn.Module:
    """Convert a model to the fastest dtype of this device.

    On a CPU that is float32 without quantization: MLX uses a BLAS for float32 only, and bfloat16 and 4-bit products are
    about 20 times slower. On a GPU the model keeps its own dtype.

    Args:
        model: The model, which is changed in place.
        lazy: Whether the weights are read only when they are used.

    Returns:
        The same model.
    """
    if device_name() == "cpu":
        # Imported here because it imports transformers, which takes a second.
        from mlx_lm.utils import dequantize_model

        model = dequantize_model(model)
        model.set_dtype(mx.float32)
        parameter_count = sum(weight.size for _, weight in tree_flatten(model.parameters()))
        blas_threads.use_threads_for(parameter_count)
    if not lazy:
        mx.eval(model.parameters())
    return model


def peak_memory_bytes() -> int:
    """Return the peak memory of this process in bytes: MLX's count on a GPU, the system's count on a CPU."""
    if device_name() != "cpu":
        return mx.get_peak_memory()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure_gflops(size: int = 1024, repeats: int = 5) -> float:
    """Measure the speed of a square float32 matrix product.

    Args:
        size: Number of rows and columns.
        repeats: Number of timed products.

    Returns:
        The median in GFLOP/s.
    """
    a = mx.random.normal((size, size))
    mx.eval(a @ a)
    times_s = []
    for _ in range(repeats):
        start = time.perf_counter()
        mx.eval(a @ a)
        times_s.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(times_s) / 1e9
