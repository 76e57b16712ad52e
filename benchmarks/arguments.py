"""Command-line arguments that several benchmarks share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path

from mlx_personal.errors import UserError
from mlx_personal.storage.files import check_writable

DEMO_STREAM = Path(str(files("mlx_personal.demo") / "stream.jsonl"))


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--model` and `--stream`, by default the embedded model and the demo's stream."""
    parser.add_argument("--model", default="demo", help="name or folder of a model; default the embedded one")
    parser.add_argument("--stream", type=Path, help="dialogues as JSON Lines; default the demo's")


def add_num_layers_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--num-layers`, by default all layers."""
    parser.add_argument(
        "--num-layers", "--lora-layers", type=int, default=-1, help="layers to adapt, from the last; default -1, all"
    )


def run_command(name: str, function: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Call the function of a command and return the exit code.

    Args:
        name: Name of the command, for error messages.
        function: Called with the options; returns the exit code.
        options: Parsed options. If there is an `--out`, it is checked first, so that no long measurement is lost.

    Returns:
        The exit code of the function; 2 after a user error, which is printed on one line.
    """
    try:
        if options.out is not None:
            check_writable(options.out)
        return function(options)
    except UserError as error:
        print(f"{name}: {error.line()}", file=sys.stderr)
        return 2


def set_defaults(
    options: argparse.Namespace, defaults: Mapping[str, tuple[int | None, int | None]]
) -> argparse.Namespace:
    """Set the options that were not given.

    Args:
        options: Parsed options.
        defaults: For each option the default with `--quick` and the default without.
    """
    for name, (quick, full) in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    return options
