"""What the formats with a session as JSON Lines have in common: they are recognized by the first line."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from mlx_personal.importers.fields import as_mapping
from mlx_personal.importers.head import Head


# Several importers ask for the same line, which can be long.
@functools.lru_cache(maxsize=1)
def first_line(head: Head) -> Mapping[str, Any]:
    """Return the object on the first line of a file with a JSON value a line; an empty one if there is none.

    Args:
        head: The beginning of the file.
    """
    if not head.is_json or head.is_list:
        return {}
    try:
        return as_mapping(json.loads(head.text.lstrip().split("\n", 1)[0]))
    except (ValueError, RecursionError):
        return {}
