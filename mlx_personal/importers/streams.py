"""Streams of bytes that change, count or limit what is read from another stream."""

from __future__ import annotations

import codecs
import io
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, BinaryIO


class _WrappedStream(io.RawIOBase):
    """A stream whose bytes come from another one, which is closed with it."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream

    @abstractmethod
    def _next(self, size: int) -> bytes:
        """Return at most a number of bytes; none at the end."""

    def readable(self) -> bool:
        """Return that the stream can be read."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read bytes into a buffer, and return their number."""
        data = self._next(len(buffer)) if len(buffer) else b""
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close both streams."""
        self._stream.close()
        super().close()


class BoundedStream(_WrappedStream):
    """A stream that ends with an error after a number of bytes.

    Args:
        stream: The stream.
        limit: The number of bytes.
        error: Returns the error.
    """

    def __init__(self, stream: BinaryIO, limit: int, error: Callable[[], Exception]):
        super().__init__(stream)
        self._left, self._error = limit, error

    def _next(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise self._error()
        return data


class CountedStream(_WrappedStream):
    """A stream that reports how many bytes are read.

    Args:
        stream: The stream.
        on_read: Receives the number of bytes of each reading.
    """

    def __init__(self, stream: BinaryIO, on_read: Callable[[int], None]):
        super().__init__(stream)
        self._on_read = on_read

    def _next(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._on_read(len(data))
        return data


class Utf8Stream(_WrappedStream):
    """A stream in any encoding, read as UTF-8 without a byte order mark; invalid bytes become U+FFFD.

    Args:
        stream: The stream.
        encoding: Its encoding.
    """

    def __init__(self, stream: BinaryIO, encoding: str):
        super().__init__(stream)
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._buffer = b""
        self._is_done = False

    def _next(self, size: int) -> bytes:
        while not self._buffer and not self._is_done:
            data = self._stream.read(size)
            self._is_done = not data
            self._buffer = self._decoder.decode(data, final=self._is_done).encode("utf-8", "replace")
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data
