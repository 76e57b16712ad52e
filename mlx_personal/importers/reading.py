"""Read the dialogues of files, folders and zips of any known format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import StorageError, UserError
from mlx_personal.importers.byte_counter import ByteCounter, OnBytes
from mlx_personal.importers.conversation import Conversation, Skipped
from mlx_personal.importers.data_folder import TEST_SPLIT_REASON, is_test_split
from mlx_personal.importers.document import Document
from mlx_personal.importers.head import Head, read_head
from mlx_personal.importers.importer import Importer
from mlx_personal.importers.normalize import NormalizedDialogue, normalize
from mlx_personal.importers.paths import open_documents
from mlx_personal.importers.registry import detect, importer_named, is_side_file

_PACKED: Final = "an archive that must be unpacked first"
_FORMATS_HINT: Final = "see the formats in the documentation"


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
    counter = ByteCounter(on_bytes)
    is_anything_read = False
    unknown: list[tuple[Document, Head]] = []
    for document in open_documents(path):
        if wanted is not None and not wanted(document):
            continue
        if isinstance(document, Skipped) or is_test_split(document.name, document.siblings):
            is_anything_read = True
            yield document if isinstance(document, Skipped) else Skipped(document.where, TEST_SPLIT_REASON)
            continue
        counter.begin(document)
        is_alone = not document.siblings
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
                unknown += [] if is_side_file(head) else [(document, head)]
                continue
            yield from _read_document(counter.counted(document), head, importer, is_alone)
        is_anything_read = True
    counter.end()
    if not is_anything_read:
        raise _no_known_format(path, unknown)
    for document, head in unknown:
        is_archive = head.kind == "archive"
        yield Skipped(document.where, _PACKED if is_archive else "a file in no known format", is_damaged=is_archive)


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


def _no_known_format(path: Path, unknown: list[tuple[Document, Head]]) -> UserError:
    """Return the error of a path with nothing but files in no known format."""
    archives = [document for document, head in unknown if head.kind == "archive"]
    if archives:
        return UserError(f"is {_PACKED}", archives[0].where, "unpack it and name its files")
    if len(unknown) == 1:
        return UserError("is in no format that can be read", unknown[0][0].where, _FORMATS_HINT)
    return UserError("has no file in a format that can be read", path, _FORMATS_HINT)


def _unreadable(document: Document, error: UserError, app: str = "") -> Skipped:
    return Skipped(document.where, " ".join(error.what.split()), app, is_damaged=True)
