"""How many jobs fit this machine at a time, and how many threads each may multiply with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")


def default_workers() -> int:
    """One worker where MLX has a GPU, since one training fills it; else one for each core."""
    # Here, because it imports MLX, which a worker need not load before its first job.
    from mlx_personal.runtime.device import device_name

    return 1 if device_name() != "cpu" else cores()


def cores() -> int:
    """The cores that this process may compute on; two threads of one core count once, where the system tells."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return len({_siblings(processor) for processor in os.sched_getaffinity(0)})


def blas_threads(workers: int) -> int | None:
    """How many threads each of `workers` processes multiplies with; None where nothing is to be set.

    A single worker's BLAS takes what it takes without us, and OPENBLAS_NUM_THREADS is the user's word.
    """
    if workers == 1 or "OPENBLAS_NUM_THREADS" in os.environ:
        return None
    return max(1, cores() // workers)


def _siblings(processor: int) -> str:
    """Names the core of a processor: the list of the processors that share it."""
    try:
        return (_TOPOLOGY / f"cpu{processor}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(processor)
