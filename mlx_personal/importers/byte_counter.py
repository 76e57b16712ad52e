"""The progress of an import: how many bytes of all files are read."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import BinaryIO

from mlx_personal.importers.document import Document
from mlx_personal.importers.streams import CountedStream

OnBytes = Callable[[int, int], None]
"""Receives the number of bytes that were read and that of all bytes, as far as they are known."""


class ByteCounter:
    """Counts the bytes of the files that are done, and those that are read from the present one.

    Args:
        on_bytes: Receives the progress; None for nobody.
    """

    def __init__(self, on_bytes: OnBytes | None):
        self._on_bytes = on_bytes
        self._done = self._total = self._size = self._read = 0
        self._folders: set[int] = set()

    def begin(self, document: Document) -> None:
        """Begin with a file, whether it is read or not; with the first one all files of its folder or zip are known.

        Args:
            document: The file.
        """
        self.end()
        self._size, self._read = document.size, 0
        if not document.siblings:
            self._total += document.size
        elif id(document.siblings) not in self._folders:
            self._folders.add(id(document.siblings))
            self._total += sum(sibling.size for sibling in document.siblings.values())

    def end(self) -> None:
        """Count the present file as done."""
        self._done += self._size
        self._size = self._read = 0
        self._report()

    def counted(self, document: Document) -> Document:
        """Return a document that reports the bytes read from it.

        Args:
            document: The file that was begun with.
        """
        if self._on_bytes is None:
            return document
        return dataclasses.replace(document, open_binary=lambda: self._counted_stream(document))

    def _counted_stream(self, document: Document) -> BinaryIO:
        return io.BufferedReader(CountedStream(document.open_binary(), self._count))

    def _count(self, size: int) -> None:
        self._read += size
        if self._size:  # otherwise it is unknown how much is left
            self._report()

    def _report(self) -> None:
        if self._on_bytes is not None:  # a compressed file has more bytes than its size, and some are read twice
            self._on_bytes(self._done + min(self._read, self._size), self._total)
