"""The command line: it parses arguments, calls the library and prints results."""

from mlx_personal.cli.main import main

__all__ = ["main"]
