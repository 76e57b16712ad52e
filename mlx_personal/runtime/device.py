"""Which device and dtype this machine computes with, and how fast it really multiplies."""

from __future__ import annotations

import platform
import resource
import statistics
import sys
import time

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_personal.runtime import blas

# Parameters below which a model's matrix products are too small to gain from a second thread.
_SMALL_MODEL = 50_000_000


def device_name() -> str:
    """`metal`, `cuda` or `cpu`: where MLX computes by default."""
    if mx.default_device() == mx.Device(mx.cpu):
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def chip_name() -> str:
    """The chip as its maker calls it, as far as the machine tells."""
    if device_name() != "cpu":
        return str(mx.device_info().get("device_name", "unknown"))
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def prepare(model: nn.Module, lazy: bool = False) -> nn.Module:
    """`model` in the dtype this device is fast in: float32, unquantized, on a CPU; its own elsewhere.

    `lazy` leaves its weights unread until they are used.

    MLX's CPU matmul reaches a BLAS in float32 only: bfloat16 and 4-bit are some 20 times slower there.
    """
    if device_name() == "cpu":
        # Here, because it imports transformers: a second that whoever only asks for the device need not pay.
        from mlx_lm.utils import dequantize_model

        model = dequantize_model(model)
        model.set_dtype(mx.float32)
        size = sum(weight.size for _, weight in tree_flatten(model.parameters()))
        blas.use_one_thread(size < _SMALL_MODEL)
    if not lazy:
        mx.eval(model.parameters())
    return model


def peak_memory() -> int:
    """The most bytes this process has held, by MLX's count on a GPU and by the system's on a CPU."""
    if device_name() != "cpu":
        return mx.get_peak_memory()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def measure_gflops(size: int = 1024, repeats: int = 5) -> float:
    """Median GFLOP/s of a square float32 product, measured now."""
    a = mx.random.normal((size, size))
    mx.eval(a @ a)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        mx.eval(a @ a)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds) / 1e9
