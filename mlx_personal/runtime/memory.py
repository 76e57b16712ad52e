"""The memory that MLX can use on this machine, and the handling of freed memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx

from mlx_personal.runtime.device import device_name

# Parameters of glibc's allocator, and the values in bytes to which glibc itself raises them in a process that frees
# large blocks.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_USUAL_THRESHOLDS = {_TRIM_THRESHOLD: 64 * 2**20, _MMAP_THRESHOLD: 32 * 2**20}
_RAISED_THRESHOLD = 2**30

# Fraction left for what MLX does not count: Python, the libraries, NumPy's arrays and the system.
_MARGIN = 0.1


def usable_memory_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return how many bytes MLX's arrays can use in all, including those that exist now.

    On a Mac that is nine tenths of Metal's recommended working set, on an NVIDIA GPU nine tenths of the GPU's own
    memory, and on a CPU nine tenths of the memory that the system reports as available.

    Args:
        meminfo: Linux's file of memory figures.

    Returns:
        The number of bytes, or None if it is not known.
    """
    if device_name() != "cpu":
        info = mx.device_info()
        total = info.get("max_recommended_working_set_size") or info.get("total_memory") or info.get("memory_size")
        return None if total is None else int((1 - _MARGIN) * int(total))
    available = _available_bytes(meminfo)
    return None if available is None else mx.get_active_memory() + int((1 - _MARGIN) * available)


def physical_memory_bytes() -> int | None:
    """Return the size of the whole machine's memory, without a GPU's own; None if it is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory in the process for later allocations, inside the `with` block; on Linux CPUs only.

    By default MLX returns every freed array to the system, which clears its pages before it provides them again; this
    took a sixth of the training time of a model of 135M parameters. Inside the block the process may keep as much
    memory as its peak.
    """
    library = _glibc()
    if library is None:
        yield
        return
    for parameter, usual in _USUAL_THRESHOLDS.items():
        # Older versions of glibc accept at most the usual value for one of them.
        if not library.mallopt(parameter, _RAISED_THRESHOLD):
            library.mallopt(parameter, usual)
    try:
        yield
    finally:
        for parameter, usual in _USUAL_THRESHOLDS.items():
            library.mallopt(parameter, usual)
        release_freed_memory()


def release_freed_memory() -> None:
    """Return to the system the freed memory that the process has kept."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """Return glibc where it allocates the memory of MLX's arrays."""
    library = ctypes.CDLL(None) if sys.platform == "linux" and device_name() == "cpu" else None
    return library if library is not None and hasattr(library, "mallopt") else None


def _available_bytes(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    # Other systems report free memory to administrators only, so half of the memory is assumed to be available.
    total = physical_memory_bytes()
    return None if total is None else total // 2
