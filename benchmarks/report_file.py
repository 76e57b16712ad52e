"""Make the heading of a report, and print and write reports."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from mlx_personal.runtime import blas, device
from mlx_personal.storage.files import atomic_write


def heading(title: str, command: str, threads: object = None) -> str:
    """Return the title, the command that repeats the report, and the machine it ran on.

    The threads are those of this process unless the measurements in other processes had others.
    """
    return f"# {title}\n\n`{command}`\n\n{machine_line(threads)}\n"


def machine_line(threads: object = None) -> str:
    """Return chip, device, threads and versions on one line."""
    threads = threads or blas.thread_count() or os.cpu_count()
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


def print_result(report: str, values: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Print a report, or the values as JSON with `--json`, and write the report to `--out` if it is given."""
    if not options.json:
        print_and_write(report, options.out)
        return
    print(json.dumps(values))
    if options.out is not None:
        atomic_write(options.out, report)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
