"""Standard input: read while it arrives, and kept only as far as it is read a second time.

How a format is recognized needs the beginning, which is then read again. Zips and databases need to be read at any
place, so they are written to a temporary file that has no name.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import BinaryIO, Final, cast

from mlx_personal.errors import UserError, from_os_error
from mlx_personal.importers.archives import GZIP_MAGIC, MAX_TOTAL_BYTES, ZIP_MAGIC, open_gzip, zip_documents
from mlx_personal.importers.conversation import Skipped
from mlx_personal.importers.document import STANDARD_INPUT, Document
from mlx_personal.importers.streams import BoundedStream, ChunkStream
from mlx_personal.storage.files import temporary_copy
from mlx_personal.storage.foreign_database import DATABASE_MAGIC

# More than the beginning by which a format is recognized.
_KEPT_BYTES: Final = 20_000_000
_SAVE_HINT: Final = "save it as a file, and name that"


def read_standard_input() -> Iterator[Document | Skipped]:
    """Yield what standard input contains: a file, or the members of a zip.

    Raises:
        UserError: If it is closed or cannot be read, or is a zip that cannot be read.
    """
    source = getattr(sys.stdin, "buffer", None)  # the command line has an empty text in the place of a closed input
    if source is None:
        raise UserError("is closed", STANDARD_INPUT, "name a file")
    where, kept = STANDARD_INPUT, _KeptInput(source)
    with contextlib.ExitStack() as stack:
        try:
            with kept.open() as beginning:
                magic = beginning.read(len(DATABASE_MAGIC))
            if magic.startswith((*ZIP_MAGIC, DATABASE_MAGIC)):
                limited = BoundedStream(kept.open(), lambda: MAX_TOTAL_BYTES, _too_large)
                file = stack.enter_context(temporary_copy(cast(BinaryIO, limited)))
        except OSError as error:
            raise from_os_error(error, where) from error
        if magic.startswith(ZIP_MAGIC):
            yield from zip_documents(file, where)
        elif magic == DATABASE_MAGIC:
            yield Document(where, where, _size(file), lambda: _reopened(file))
        elif magic.startswith(GZIP_MAGIC):
            yield Document(where, where, 0, lambda: open_gzip(kept.open(), where))
        else:
            yield Document(where, where, 0, kept.open)


class _KeptInput:
    """A stream that can be read several times from its beginning, unless more than `_KEPT_BYTES` were read."""

    def __init__(self, source: BinaryIO):
        self._source = source
        self._kept = bytearray()
        self._read_bytes = 0

    def open(self) -> BinaryIO:
        return io.BufferedReader(_KeptStream(self))

    def read(self, position: int, size: int) -> bytes:
        if position < len(self._kept):
            return bytes(self._kept[position : position + size])
        if position < self._read_bytes:
            raise UserError("can be read only once in this format", STANDARD_INPUT, _SAVE_HINT)
        data = self._source.read(size)
        self._read_bytes += len(data)
        if self._read_bytes <= _KEPT_BYTES:
            self._kept += data
        else:
            self._kept.clear()
        return data


class _KeptStream(ChunkStream):
    """A reader of a `_KeptInput` from its beginning; closing it leaves the input open."""

    def __init__(self, kept: _KeptInput):
        self._kept, self._position = kept, 0

    def next_chunk(self, size: int) -> bytes:
        data = self._kept.read(self._position, size)
        self._position += len(data)
        return data


def _too_large() -> UserError:
    return UserError(f"is larger than {MAX_TOTAL_BYTES // 1_000_000_000} GB", STANDARD_INPUT, _SAVE_HINT)


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _reopened(file: BinaryIO) -> BinaryIO:
    """Return the file from its beginning; closing it leaves the file open."""
    file.seek(0)
    return os.fdopen(os.dup(file.fileno()), "rb")
