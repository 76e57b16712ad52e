"""Decode the JSON values of a stream one after the other: the items of a list, or several values in a row.

A decoder of events needs memory that grows with the square of the depth of a value, which a damaged file can make
large. Python's decoder needs a whole value, so as much text is kept as the longest value has.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO, Final

_CHUNK_BYTES: Final = 1_048_576
# A longer value is damaged, such as by a quotation mark that is missing.
MAX_VALUE_CHARS: Final = 128_000_000
_SPACE: Final = re.compile(r"[\s\ufeff]*")
# The longest beginning of a token that can be cut off: an escape sequence such as \ud83d\ude00.
_MAX_TOKEN_CHARS: Final = 16
_CUT_TOKEN: Final = re.compile(r"(-|t(r(u)?)?|f(a(l(s)?)?)?|n(u(l)?)?)?\s*\Z")
# Characters that may stand in a number after its beginning that is a number itself: `.`, or `e-`.
_MAX_NUMBER_SIGNS: Final = 2
CUT_OFF: Final = "the end of the file is missing"
DAMAGED: Final = "not JSON"


class DamagedValueError(ValueError):
    """A value that cannot be decoded; the values after it cannot be found.

    Args:
        reason: `CUT_OFF` or another reason, on one line.

    Attributes:
        reason: The reason.
    """

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(reason)


def decode_values(
    stream: BinaryIO, encoding: str, is_list: bool, lists: Collection[str] = ()
) -> Iterator[tuple[str, Any]]:
    """Yield the JSON values of a stream, each with the key of the list that it is in.

    Args:
        stream: The stream.
        encoding: Its encoding. Bytes that are not UTF-8 become lone surrogates, so that only their message is invalid.
        is_list: Whether the values are the items of a list, or of several lists in a row.
        lists: The keys of an object under which lists of values are; empty if they are not in an object.

    Yields:
        The key, which is empty if there is none, and the value.

    Raises:
        DamagedValueError: If a value is damaged or cut off, after those before it.
    """
    text = _Text(stream, encoding)
    text.peek()  # there must be something
    while text.skip_space():
        if lists and text.peek() == "{":
            yield from _items_of_lists(text, lists)
        elif is_list:
            yield from (("", item) for item in _items(text))
        else:
            yield "", text.decode()


def _items(text: _Text) -> Iterator[Any]:
    """Yield the items of a list."""
    text.expect("[")
    for _ in text.members("]"):
        yield text.decode()


def _items_of_lists(text: _Text, lists: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield the items of the lists that an object has under some keys, each with its key."""
    text.expect("{")
    for _ in text.members("}"):
        key = text.decode()
        text.expect(":")
        if text.peek() != "[":
            text.decode()
        else:
            for item in _items(text):  # a list that is left out is not kept as a whole
                if key in lists:
                    yield key, item


class _Text:
    """The text of a stream from the value that is decoded next."""

    def __init__(self, stream: BinaryIO, encoding: str):
        self._stream = stream
        errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
        self._decoder = codecs.getincrementaldecoder(encoding)(errors)
        self._json = json.JSONDecoder(strict=False)
        self._text = ""
        self._position = 0
        self._is_complete = False

    def skip_space(self) -> bool:
        """Go to the next character that is no space, and return whether there is one."""
        while True:
            match = _SPACE.match(self._text, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._text):
                return True
            if not self._read_more():
                return False

    def peek(self) -> str:
        """Return the next character that is no space."""
        if not self.skip_space():
            raise DamagedValueError(CUT_OFF)
        return self._text[self._position]

    def expect(self, character: str) -> None:
        """Go beyond the next character that is no space, which must be a certain one."""
        if self.peek() != character:
            raise DamagedValueError(DAMAGED)
        self._position += 1

    def members(self, end: str) -> Iterator[None]:
        """Go to each member of a list or an object, whose beginning was read, and beyond its end."""
        is_first = True
        while self.peek() != end:
            if not is_first:
                self.expect(",")
                self.peek()
            yield
            is_first = False
        self.expect(end)

    def decode(self) -> Any:
        """Return the value that begins here, and go to its end."""
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                is_at_end = error.pos >= len(self._text) - _MAX_TOKEN_CHARS
                is_string = error.msg.startswith("Unterminated") or ("escape" in error.msg and is_at_end)
                if (is_string or is_at_end) and self._read_more():
                    continue
                is_cut_off = is_string or _CUT_TOKEN.match(self._text, error.pos)
                raise DamagedValueError(CUT_OFF if is_cut_off else DAMAGED) from None
            except RecursionError:
                raise DamagedValueError("JSON nested too deeply") from None
            except ValueError:  # Python reads no integer of more than 4300 digits
                raise DamagedValueError("a number with too many digits") from None
            # A number, such as 1.5e-5, may go on in text that was not read yet.
            is_number = isinstance(value, int | float)
            if not is_number or end + _MAX_NUMBER_SIGNS < len(self._text) or not self._read_more():
                self._position = end
                if end > max(_CHUNK_BYTES, len(self._text) // 2):  # a long value is not kept twice
                    self._text, self._position = self._text[end:], 0
                return value

    def _read_more(self) -> bool:
        """Read as much again as is kept, so that the time stays linear; return whether there was anything."""
        if self._is_complete:
            return False
        kept_chars = len(self._text) - self._position
        if kept_chars > MAX_VALUE_CHARS:
            raise DamagedValueError(f"a value of over {MAX_VALUE_CHARS:,} characters")
        texts: list[str] = []
        while not self._is_complete and len(texts) * _CHUNK_BYTES <= kept_chars:
            data = self._stream.read(_CHUNK_BYTES)
            self._is_complete = not data
            texts.append(self._decoder.decode(data, final=self._is_complete))
        if self._is_complete and not any(texts):
            return False
        self._text, self._position = "".join((self._text[self._position :], *texts)), 0
        return True
