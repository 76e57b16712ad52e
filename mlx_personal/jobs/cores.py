"""The number of worker processes on this machine, and of BLAS threads in each."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_CPU_FOLDER = Path("/sys/devices/system/cpu")


def default_workers() -> int:
    """Return 1 if MLX has a GPU, because one training run fills it; otherwise the number of cores."""
    # Imported here because it imports MLX.
    from mlx_personal.runtime.device import device_name

    return 1 if device_name() != "cpu" else cores()


def cores() -> int:
    """Return the number of physical cores that this process may use; on Linux, hyperthreads of a core count once."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return len({_sibling_list(processor) for processor in os.sched_getaffinity(0)})


def blas_threads(workers: int) -> int | None:
    """Return the number of BLAS threads of each worker process.

    Args:
        workers: Number of worker processes.

    Returns:
        The number of threads; None to keep the BLAS's own setting, with a single worker or if OPENBLAS_NUM_THREADS is
        set.
    """
    if workers == 1 or "OPENBLAS_NUM_THREADS" in os.environ:
        return None
    return max(1, cores() // workers)


def _sibling_list(processor: int) -> str:
    """Return the list of processors on the same core, which identifies the core."""
    try:
        return (_CPU_FOLDER / f"cpu{processor}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(processor)
