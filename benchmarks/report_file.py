"""What every report begins with, and how it is delivered."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from mlx_personal.runtime import blas, device
from mlx_personal.storage.files import atomic_write


def heading(title: str, command: str) -> str:
    """The title, the command that repeats the report, and what it ran on."""
    return f"# {title}\n\n`{command}`\n\n{machine()}\n"


def machine() -> str:
    """Chip, device, threads and versions, in a line."""
    threads = os.environ.get("OPENBLAS_NUM_THREADS", str(os.cpu_count()))
    names = [f"Python {platform.python_version()}"]
    names += [
        f"{name} {version}"
        for name in ("mlx", "mlx-lm", "numpy", "torch", "sentence-transformers")
        if (version := _of(name))
    ]
    where = f"{device.chip_name()}, {device.device_name()}, {platform.system()}"
    return f"{where}; threads: {threads}; BLAS of MLX: {blas.preload().name}; {', '.join(names)}."


def deliver(report: str, out: Path | None) -> None:
    """Prints a report, and keeps it in a file where one is named."""
    print(report)
    if out is not None:
        atomic_write(out, report)


def _of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
