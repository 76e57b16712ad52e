"""Read fields of foreign JSON, which may be missing or of any type, without an error."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

_EMPTY: Final[Mapping[str, Any]] = {}
# Times outside of these years are damaged values, such as milliseconds taken for seconds.
_FIRST_TIME: Final = datetime.datetime(1990, 1, 1, tzinfo=datetime.UTC).timestamp()
_LAST_TIME: Final = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC).timestamp()
# Numbers above this are milliseconds, those above its thousandfold microseconds, and so on.
_FIRST_MILLISECONDS: Final = 1e11


def as_mapping(value: object) -> Mapping[str, Any]:
    """Return an object of JSON; an empty one for any other value."""
    return value if isinstance(value, Mapping) else _EMPTY


def as_list(value: object) -> Sequence[Any]:
    """Return a list of JSON; an empty one for any other value."""
    return value if isinstance(value, list) else ()


def text_of(value: object) -> str:
    """Return a text of JSON; an empty one for any other value."""
    return value if isinstance(value, str) else ""


def as_time(value: object) -> float | None:
    """Return a point in time in seconds since 1970, UTC; None if it is missing or cannot be right.

    Args:
        value: Seconds, milliseconds, microseconds or nanoseconds since 1970, or a text in ISO 8601. A text without a
            time zone is UTC.
    """
    seconds: float
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            seconds = float(value)
        except OverflowError:
            return None
        while math.isfinite(seconds) and abs(seconds) >= _FIRST_MILLISECONDS:
            seconds /= 1000
    elif isinstance(value, str):
        try:
            time = datetime.datetime.fromisoformat(value.strip())
            seconds = time.replace(tzinfo=time.tzinfo or datetime.UTC).timestamp()
        except (ValueError, OverflowError):
            return None
    else:
        return None
    return seconds if _FIRST_TIME <= seconds < _LAST_TIME else None


def text_of_parts(content: object) -> tuple[str, dict[str, int]]:
    """Return the text of a message's content, and the numbers of its other parts by type.

    Args:
        content: A text, or a list of parts in the form of the OpenAI or the Anthropic API.
    """
    if isinstance(content, str):
        return content, {}
    texts: list[str] = []
    left_out: dict[str, int] = {}
    for part in as_list(content):
        if isinstance(part, str):
            texts.append(part)
            continue
        fields = as_mapping(part)
        kind = text_of(fields.get("type")) or ("text" if isinstance(fields.get("text"), str) else "part")
        if kind in ("text", "input_text", "output_text") and isinstance(fields.get("text"), str):
            texts.append(fields["text"])
        elif kind not in ("thinking", "redacted_thinking", "reasoning"):
            name = "image" if "image" in kind else kind
            left_out[name] = left_out.get(name, 0) + 1
    return "\n".join(text for text in texts if text), left_out
