"""Read the reason from the body of a server's error response.

Servers that are compatible with OpenAI's interface still differ here: `{"error": {"message": ...}}`, `{"error": ...}`
with a text, a `message` or a `detail` at the top level, lists of such objects, plain text, or a web page.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, Final

# A longer reason is cut, and the number of the characters that are left out is stated.
MAX_REASON_CHARS: Final = 1000
# No more of a text or a page is read, and no objects that are nested deeper.
_MAX_BODY_BYTES: Final = 20_000
_MAX_DEPTH: Final = 8
# Where an error object may have its reason, in the order in which reasons are joined; `raw` is that of a server behind
# the server.
_REASON_KEYS: Final = (
    *("error", "errors", "message", "msg", "detail", "details", "error_description", "title", "reason"),
    *("metadata", "raw"),
)
_CODE_KEYS: Final = ("code", "type", "status", "error_code")
# A shorter text is a word that local servers get in place of a key.
_MIN_SECRET_CHARS: Final = 6
_INVISIBLE_ELEMENTS: Final = ("script", "style")


@dataclass(frozen=True)
class ErrorReport:
    """What the body of an error response says.

    Attributes:
        reason: The reason on one line, at most `MAX_REASON_CHARS` long plus a note on what was cut; empty for none.
        codes: Codes and types of the error, in lower case, such as `insufficient_quota` or `429`.
        fields: Fields of the request that the error is about, as far as it names them apart from the reason.
    """

    reason: str = ""
    codes: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()


def read_error(body: bytes, secret: str | None = None) -> ErrorReport:
    """Return what the body of an error response says.

    Args:
        body: The body.
        secret: A key that must not appear in the reason, where it is replaced; None for none.
    """
    text = body[:_MAX_BODY_BYTES].decode("utf-8", "replace")
    found = _Findings()
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        reasons = _page_texts(text) if text.lstrip().startswith("<") else [text]
    else:
        found.add(parsed)
        # An object whose keys are all unknown is shown as it is; `{}` and `null` say nothing.
        reasons = found.reasons or ([text] if parsed else [])
    return ErrorReport(
        _one_line("; ".join(dict.fromkeys(reasons)), secret), frozenset(found.codes), frozenset(found.fields)
    )


@dataclass
class _Findings:
    """What was found in a parsed body."""

    reasons: list[str] = field(default_factory=list)
    codes: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)

    def add(self, value: Any, depth: int = 0) -> None:
        """Add the findings in an error object, a list of them, or a text."""
        if depth > _MAX_DEPTH:
            return
        if isinstance(value, str):
            self._add_text(value, depth)
        elif isinstance(value, list):
            for part in value[:_MAX_DEPTH]:
                self.add(part, depth + 1)
        elif isinstance(value, dict):
            codes = (value.get(key) for key in _CODE_KEYS)
            self.codes |= {str(code).lower() for code in codes if isinstance(code, str | int)}
            location = self._add_fields(value)
            first = len(self.reasons)
            for key in _REASON_KEYS:
                self.add(value.get(key), depth + 1)
            if location and len(self.reasons) > first:
                self.reasons[first] = f"{location}: {self.reasons[first]}"

    def _add_text(self, text: str, depth: int) -> None:
        """Add a text; a server that passes on the error of another one may have its JSON in a string."""
        if text.lstrip().startswith(("{", "[")):
            try:
                parsed, before = json.loads(text), len(self.reasons)
            except (ValueError, RecursionError):
                pass
            else:
                self.add(parsed, depth + 1)
                if len(self.reasons) > before:
                    return
        if text.strip():
            self.reasons.append(text.strip())

    def _add_fields(self, value: dict[str, Any]) -> str:
        """Add the request fields that an object names, and return the location of a failed validation as text."""
        location = value.get("loc")
        parts = [str(part) for part in location] if isinstance(location, list) else []
        parameter = value.get("param")
        self.fields |= {*parts, *([parameter] if isinstance(parameter, str) else [])}
        return ".".join(parts)


class _PageText(HTMLParser):
    """Collects the visible texts of a web page, with its title."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._invisible = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Count the open elements whose text is not shown."""
        self._invisible += tag in _INVISIBLE_ELEMENTS

    def handle_endtag(self, tag: str) -> None:
        """Count the open elements whose text is not shown."""
        self._invisible -= tag in _INVISIBLE_ELEMENTS

    def handle_data(self, data: str) -> None:
        """Collect a text that is shown."""
        if self._invisible <= 0 and data.strip():
            self.texts.append(" ".join(data.split()))


def _page_texts(text: str) -> list[str]:
    page = _PageText()
    page.feed(text)
    page.close()
    return page.texts


def _one_line(text: str, secret: str | None) -> str:
    """Return a text on one line without control characters and without the secret, cut if it is long."""
    if secret is not None and len(secret) >= _MIN_SECRET_CHARS:
        text = text.replace(secret, "[key]")
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    if len(line) <= MAX_REASON_CHARS:
        return line
    return f"{line[:MAX_REASON_CHARS]}... ({len(line) - MAX_REASON_CHARS:,} more characters)"
