"""Open a JSON file of any size for reading piece by piece."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import ijson

from mlx_personal.errors import UserError, from_os_error


@contextlib.contextmanager
def open_json_stream(path: Path) -> Iterator[BinaryIO]:
    """Open a JSON file for the streaming parser ijson.

    Args:
        path: File to read.

    Yields:
        The open file to pass to one of ijson's parsers within the block.

    Raises:
        UserError: If the file cannot be read, or the block meets text that is not JSON.
    """
    try:
        with path.open("rb") as file:
            if not file.peek(1):
                raise UserError("an empty file", path, "download it again, or name another")
            yield file
    except OSError as error:
        raise from_os_error(error, path) from error
    except ijson.IncompleteJSONError as error:
        # The C parser of ijson raises this for any error in the text, not only for a truncated one.
        raise UserError(f"not JSON, or truncated ({_first_line(error)})", path, "download it again") from error
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise UserError(f"not JSON ({_first_line(error)})", path, "name one of LaMP's files") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no details"])[0].strip()
