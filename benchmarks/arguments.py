"""What the command lines of several benchmarks share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path

from mlx_personal.errors import UserError
from mlx_personal.storage.files import check_writable

DEMO_STREAM = Path(str(files("mlx_personal.demo") / "stream.jsonl"))


def positive(text: str) -> int:
    """A command line's whole number of at least 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def ended(name: str, work: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """The status that `work` ends with; 2, and a line on standard error, where its input is wrong.

    Whether `--out` can be written is found out first: what takes minutes to measure must not be lost.
    """
    try:
        if options.out is not None:
            check_writable(options.out)
        return work(options)
    except UserError as error:
        print(f"{name}: {error.line()}", file=sys.stderr)
        return 2


def fill(options: argparse.Namespace, defaults: Mapping[str, tuple[int | None, int | None]]) -> argparse.Namespace:
    """Sets what was not given to its default: the first with `--quick`, else the second."""
    for name, (quick, full) in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    return options
