"""How many jobs run at a time on this machine, and with how many BLAS threads each."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_CPU_FOLDER = Path("/sys/devices/system/cpu")


def default_workers() -> int:
    """Return 1 if MLX has a GPU, since one training run fills it; otherwise the number of cores."""
    # Imported here because it imports MLX, which a worker does not need before its first job.
    from mlx_personal.runtime.device import device_name

    return 1 if device_name() != "cpu" else cores()


def cores() -> int:
    """Return how many physical cores this process may use; on Linux, hyperthreads of one core count once."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return len({_sibling_list(processor) for processor in os.sched_getaffinity(0)})


def blas_threads(workers: int) -> int | None:
    """Return how many BLAS threads each worker process gets.

    Args:
        workers: Number of worker processes.

    Returns:
        The number of threads, or None to leave BLAS alone: with a single worker, or if the user set
        OPENBLAS_NUM_THREADS.
    """
    if workers == 1 or "OPENBLAS_NUM_THREADS" in os.environ:
        return None
    return max(1, cores() // workers)


def _sibling_list(processor: int) -> str:
    """Return the list of processors that share this one's core, which identifies the core."""
    try:
        return (_CPU_FOLDER / f"cpu{processor}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(processor)
