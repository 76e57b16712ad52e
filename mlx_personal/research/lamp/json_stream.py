"""Read a JSON file of any size piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson

from mlx_personal.errors import UserError, from_os_error


def json_items(path: Path, prefix: str) -> Iterator[Any]:
    """Yield the values at a place in a JSON file, one at a time.

    Args:
        path: File to read.
        prefix: The place, as in ijson: `item` for the elements of a list, `golds.item` for those of the list `golds`.

    Yields:
        The values.

    Raises:
        UserError: If the file cannot be read, or is not JSON.
    """
    try:
        with path.open("rb") as file:
            if not file.peek(1):
                raise UserError("an empty file", path, "download it again, or name another")
            yield from ijson.items(file, prefix, use_float=True)
    except OSError as error:
        raise from_os_error(error, path) from error
    except ijson.IncompleteJSONError as error:
        # The C parser of ijson raises this for any error in the text, not only for a truncated one.
        raise UserError(f"not JSON, or truncated ({_first_line(error)})", path, "download it again") from error
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise UserError(f"not JSON ({_first_line(error)})", path, "name one of LaMP's files") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no details"])[0].strip()
