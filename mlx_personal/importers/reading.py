"""Read the dialogues of files, folders and zips of any known format."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import StorageError, UserError
from mlx_personal.importers.conversation import Conversation, Skipped
from mlx_personal.importers.data_folder import TEST_SPLIT_REASON, is_test_split
from mlx_personal.importers.document import Document, open_documents
from mlx_personal.importers.head import Head, read_head
from mlx_personal.importers.importer import Importer
from mlx_personal.importers.normalize import NormalizedDialogue, normalize
from mlx_personal.importers.registry import detect, importer_named, is_side_file

OnBytes = Callable[[int, int], None]
"""Receives the number of bytes that were read and that of all bytes, as far as they are known."""


@dataclass(frozen=True)
class ImportedDialogue:
    """A dialogue of an export and where it comes from.

    Attributes:
        normalized: The dialogue, with the turns that it consists of.
        conversation: The conversation.
    """

    normalized: NormalizedDialogue
    conversation: Conversation

    @property
    def dialogue(self) -> Dialogue:
        """The dialogue."""
        return self.normalized.dialogue


def read_imports(
    path: Path,
    importer_name: str | None = None,
    on_bytes: OnBytes | None = None,
    wanted: Callable[[Document | Skipped], bool] | None = None,
) -> Iterator[ImportedDialogue | Skipped]:
    """Yield the dialogues of a path, and what is left out.

    Args:
        path: A file, a folder, or a zip; `-` is standard input.
        importer_name: Name of the format of all its files; None to recognize each one.
        on_bytes: Receives the progress.
        wanted: Returns whether a file is read, or that it cannot be is reported; None for all.

    Yields:
        Each dialogue, or what is left out. Of a conversation with turns that are left out, these follow it.

    Raises:
        UserError: If the path cannot be read, or no file of it has a known format.
    """
    forced = None if importer_name is None else importer_named(importer_name)
    counter = _ByteCounter(on_bytes)
    is_anything_read = False
    unknown: list[Document] = []
    for document in open_documents(path):
        if wanted is not None and not wanted(document):
            continue
        if isinstance(document, Skipped) or is_test_split(document.name, document.siblings):
            is_anything_read = True
            yield document if isinstance(document, Skipped) else Skipped(document.where, TEST_SPLIT_REASON)
            continue
        counter.begin(document)
        is_alone = document.path == path.expanduser()
        try:
            head = read_head(document)
        except UserError as error:
            if isinstance(error, StorageError) or is_alone:
                raise
            head = None
            yield _unreadable(document, error)
        if head is not None and head.kind == "empty" and detect(head) is None and not is_side_file(head):
            yield Skipped(document.where, "an empty file", is_damaged=True)
        elif head is not None:
            importer = forced or detect(head)
            if importer is None:
                unknown += [] if is_side_file(head) else [document]
                continue
            yield from _read_document(counter.counted(document), head, importer, is_alone)
        is_anything_read = True
    counter.end()
    if not is_anything_read:
        what = "is in no format that can be read" if len(unknown) == 1 else "has no file in a format that can be read"
        raise UserError(what, unknown[0].where if len(unknown) == 1 else path, "see the formats in the documentation")
    for document in unknown:
        yield Skipped(document.where, "a file in no known format")


def read_dialogues(path: Path | str) -> Iterator[Dialogue | Skipped]:
    """Yield the dialogues of a path, and what is left out, in any known format.

    Args:
        path: A file, a folder, or a zip.

    Raises:
        UserError: If it cannot be read, or no file of it has a known format.
    """
    for item in read_imports(Path(path)):
        yield item.dialogue if isinstance(item, ImportedDialogue) else item


def load_dialogues(path: Path | str, min_count: int = 1) -> list[Dialogue]:
    """Return all dialogues of a file in which every record must be one.

    Args:
        path: The file; `~` is expanded.
        min_count: Minimum number of dialogues.

    Raises:
        UserError: If the file cannot be read, a record is no dialogue, or there are too few.
    """
    dialogues = []
    for item in read_dialogues(Path(path).expanduser()):
        if isinstance(item, Dialogue):
            dialogues.append(item)
        elif not item.is_turn:
            raise UserError(f"not a dialogue ({item.reason})", item.where, "fix that record, or name another file")
    if len(dialogues) < min_count:
        what = f"{len(dialogues)} dialogues; at least {min_count} are needed"
        raise UserError(what, path, "name a file with more")
    return dialogues


def _read_document(
    document: Document, head: Head, importer: Importer, is_alone: bool
) -> Iterator[ImportedDialogue | Skipped]:
    is_anything_read = False
    try:
        for item in importer.read(document, head):
            is_anything_read = True
            if isinstance(item, Skipped):
                yield item
                continue
            normalized = normalize(item)
            if isinstance(normalized, Skipped):
                yield normalized
            else:
                yield ImportedDialogue(normalized, item)
                yield from normalized.skipped
    except UserError as error:  # a damaged file; the others are still read
        if isinstance(error, StorageError) or (is_alone and not is_anything_read):
            raise
        yield _unreadable(document, error, importer.name)


def _unreadable(document: Document, error: UserError, app: str = "") -> Skipped:
    return Skipped(document.where, " ".join(error.what.split()), app, is_damaged=True)


class _ByteCounter:
    """Counts the bytes of the files that are done, and those that are read from the present one."""

    def __init__(self, on_bytes: OnBytes | None):
        self._on_bytes = on_bytes
        self._done = self._total = self._size = self._read = 0
        self._folders: set[int] = set()

    def begin(self, document: Document) -> None:
        """Begin with a file, whether it is read or not; with the first one all files of its folder or zip are known."""
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
        """Return a document that reports the bytes read from it."""
        if self._on_bytes is None:
            return document
        return dataclasses.replace(document, open_binary=lambda: self._counted_stream(document))

    def _counted_stream(self, document: Document) -> BinaryIO:
        return io.BufferedReader(_CountedStream(document.open_binary(), self._count))

    def _count(self, size: int) -> None:
        self._read += size
        self._report()

    def _report(self) -> None:
        if self._on_bytes is not None:  # a compressed file has more bytes than its size, and some are read twice
            self._on_bytes(self._done + min(self._read, self._size), self._total)


class _CountedStream(io.RawIOBase):
    """A stream that reports how many bytes are read."""

    def __init__(self, stream: BinaryIO, on_read: Callable[[int], None]):
        self._stream, self._on_read = stream, on_read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._stream.read(len(buffer))
        self._on_read(len(data))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
