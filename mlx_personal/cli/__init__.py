"""The command line: parses, calls one room, prints. No rule of the loop is decided here."""

from mlx_personal.cli.main import main

__all__ = ["main"]
