"""Streams of bytes that change, count or limit what is read from another stream."""

from __future__ import annotations

import codecs
import io
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, BinaryIO


class ChunkStream(io.RawIOBase):
    """A stream for reading that gets its bytes from `next_chunk`."""

    @abstractmethod
    def next_chunk(self, size: int) -> bytes:
        """Return the next bytes; none at the end.

        Args:
            size: The largest number of them, at least 1.
        """

    def readable(self) -> bool:
        """Return that the stream can be read."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read bytes into a buffer, and return their number."""
        data = self.next_chunk(len(buffer)) if len(buffer) else b""
        buffer[: len(data)] = data
        return len(data)


class _WrappedStream(ChunkStream):
    """A stream whose bytes come from another one, which is closed with it."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream

    def close(self) -> None:
        """Close both streams."""
        self._stream.close()
        super().close()


class BoundedStream(_WrappedStream):
    """A stream that ends with an error after a number of bytes.

    Args:
        stream: The stream.
        limit: Returns the number of bytes, which may grow while they are read.
        error: Returns the error.
    """

    def __init__(self, stream: BinaryIO, limit: Callable[[], int], error: Callable[[], Exception]):
        super().__init__(stream)
        self._limit, self._error = limit, error
        self._read_bytes = 0

    def next_chunk(self, size: int) -> bytes:
        """Return the next bytes, or raise the error."""
        data = self._stream.read(size)
        self._read_bytes += len(data)
        if self._read_bytes > self._limit():
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

    def next_chunk(self, size: int) -> bytes:
        """Return the next bytes, and report their number."""
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

    def next_chunk(self, size: int) -> bytes:
        """Return the next bytes in UTF-8."""
        while not self._buffer and not self._is_done:
            data = self._stream.read(size)
            self._is_done = not data
            self._buffer = self._decoder.decode(data, final=self._is_done).encode("utf-8", "replace")
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data
