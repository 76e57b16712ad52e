"""How much memory this machine has for a model and what is computed with it."""

from __future__ import annotations

import os
from pathlib import Path

import mlx.core as mx

from mlx_personal.backend.device import device_name

# What MLX does not count: Python, the libraries, NumPy's own arrays, and the system's need to breathe.
_MARGIN = 0.1


def usable_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that MLX's arrays may take in all, those it holds now included; None where nothing tells.

    On a Mac nine tenths of what Metal recommends as a working set, which leaves the system its share already. On an
    NVIDIA GPU nine tenths of the GPU's own memory; on a CPU, of what the system says is available.
    """
    if device_name() != "cpu":
        facts = mx.device_info()
        found = facts.get("max_recommended_working_set_size") or facts.get("total_memory") or facts.get("memory_size")
        return None if found is None else int((1 - _MARGIN) * int(found))
    free = _available(meminfo)
    return None if free is None else mx.get_active_memory() + int((1 - _MARGIN) * free)


def _available(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        # Not Linux: how much of it is free nobody tells without administrator's tools, so half counts as taken.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (OSError, ValueError):
        return None
