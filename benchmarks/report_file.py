"""The heading of every report, and writing it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from mlx_personal.runtime import blas, device
from mlx_personal.storage.files import atomic_write


def heading(title: str, command: str) -> str:
    """Return the title, the command that repeats the report, and the machine it ran on."""
    return f"# {title}\n\n`{command}`\n\n{machine_line()}\n"


def machine_line() -> str:
    """Return chip, device, threads and versions on one line."""
    threads = os.environ.get("OPENBLAS_NUM_THREADS", str(os.cpu_count()))
    versions = [f"Python {platform.python_version()}"]
    versions += [
        f"{name} {version}"
        for name in ("mlx", "mlx-lm", "numpy", "torch", "sentence-transformers")
        if (version := _version(name))
    ]
    machine = f"{device.chip_name()}, {device.device_name()}, {platform.system()}"
    return f"{machine}; threads: {threads}; BLAS of MLX: {blas.preload().name}; {', '.join(versions)}."


def print_and_write(report: str, out: Path | None) -> None:
    """Print a report, and write it to a file if one is given."""
    print(report)
    if out is not None:
        atomic_write(out, report)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
