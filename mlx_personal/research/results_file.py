"""Results of an experiment as JSON Lines: one object a line, appended as soon as it is known.

A line is appended in one write and synced, so that a killed process loses at most the line that it was writing. Such an
incomplete last line is overwritten by the next one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_personal.errors import UserError, from_os_error

Row = dict[str, Any]


def read_results(path: Path) -> list[Row]:
    """Return the objects of a file of results; none if it does not exist.

    Args:
        path: The file.

    Raises:
        UserError: If it cannot be read, or a line other than an incomplete last one is not a JSON object.
    """
    rows = []
    for number, line in enumerate(_complete_lines(path), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _damaged(path, number) from error
        if not isinstance(row, dict):
            raise _damaged(path, number)
        rows.append(row)
    return rows


def append_result(path: Path, row: Mapping[str, Any]) -> None:
    """Append an object to a file of results, which is created if it does not exist.

    Args:
        path: The file, which no other process writes.
        row: The object; it has no NaN or infinity.

    Raises:
        UserError: If the file cannot be written.
    """
    line = json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n"
    complete = sum(len(line) + 1 for line in _complete_lines(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.truncate(complete)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise from_os_error(error, path) from error


def _complete_lines(path: Path) -> list[bytes]:
    """Return the lines that end with a line break, without it."""
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise from_os_error(error, path) from error


def _damaged(path: Path, number: int) -> UserError:
    return UserError(f"line {number} is not a JSON object", path, "restore the file, or remove that line")
