"""How much memory this machine has for a model and what is computed with it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx

from mlx_personal.runtime.device import device_name

# Parameters of glibc's allocator, and what its own rule comes to in a process that frees large blocks.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_USUAL = {_TRIM_THRESHOLD: 64 * 2**20, _MMAP_THRESHOLD: 32 * 2**20}
_KEPT = 2**30

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


def physical_memory() -> int | None:
    """Bytes of the whole machine; of a GPU with its own memory, that is not this. None where nothing tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, what is freed stays with the process for what is allocated next; on Linux's CPUs alone.

    There MLX frees each array to the system, which hands out pages anew and fills them with zeros first: a sixth of the
    time in which a model of 135M parameters is trained. The process may hold as much as it ever did, then.
    """
    library = _allocator()
    if library is None:
        yield
        return
    for parameter, usual in _USUAL.items():
        # Older versions of glibc take no more than the usual for one of them.
        if not library.mallopt(parameter, _KEPT):
            library.mallopt(parameter, usual)
    try:
        yield
    finally:
        for parameter, usual in _USUAL.items():
            library.mallopt(parameter, usual)
        give_back()


def give_back() -> None:
    """Returns to the system what was freed and stayed with the process."""
    if (library := _allocator()) is not None:
        library.malloc_trim(0)


def _allocator() -> ctypes.CDLL | None:
    """glibc, where arrays lie in memory that it allocates."""
    library = ctypes.CDLL(None) if sys.platform == "linux" and device_name() == "cpu" else None
    return library if library is not None and hasattr(library, "mallopt") else None


def _available(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    # Not Linux: how much of it is free nobody tells without administrator's tools, so half counts as taken.
    whole = physical_memory()
    return None if whole is None else whole // 2
