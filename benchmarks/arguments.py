"""What the command lines of several benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

DEMO_STREAM = Path(str(files("mlx_personal.demo") / "stream.jsonl"))


def positive(text: str) -> int:
    """A command line's whole number of at least 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def fill(options: argparse.Namespace, defaults: Mapping[str, tuple[int | None, int | None]]) -> argparse.Namespace:
    """Sets what was not given to its default: the first with `--quick`, else the second."""
    for name, (quick, full) in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    return options
