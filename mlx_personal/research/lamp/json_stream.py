"""Opens a JSON file to be read piece by piece, whatever its size; what is wrong with it is one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from mlx_personal.errors import UserError, from_os_error


@contextlib.contextmanager
def json_stream(path: Path) -> Iterator[tuple[ModuleType, BinaryIO]]:
    """The module `ijson` and the open file, for a block that hands one to the other.

    UserError where ijson is not installed, the file cannot be read, or the block meets what is not JSON.
    """
    try:
        import ijson
    except ImportError as error:
        hint = "pip install 'mlx-personal[lamp]'"
        raise UserError("LaMP's files need ijson, which is not installed", path, hint) from error
    try:
        with path.open("rb") as file:
            if not file.peek(1):
                raise UserError("an empty file", path, "download it again, or name another")
            yield ijson, file
    except OSError as error:
        raise from_os_error(error, path) from error
    except ijson.IncompleteJSONError as error:
        # ijson's C parser says so of any error in the text, not only of one that is cut off.
        raise UserError(f"not JSON, or cut off ({_first_line(error)})", path, "download it again") from error
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise UserError(f"not JSON ({_first_line(error)})", path, "name a file of LaMP's") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["nothing more is known"])[0].strip()
