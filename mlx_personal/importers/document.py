"""The files that importers read: on the disk, in a folder, in a zip, compressed, or from standard input.

Nothing outside a named path is opened: links that lead out of a folder and members of a zip that would are skipped, and
nothing is unpacked to the disk.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import sqlite3
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from mlx_personal.errors import UserError, escape_surrogates, from_os_error
from mlx_personal.importers.conversation import Skipped
from mlx_personal.storage.foreign_database import open_foreign_database

# A zip of text is seldom compressed to less than a fiftieth; a bomb is compressed to a thousandth.
MAX_RATIO: Final = 200
MAX_MEMBERS: Final = 100_000
MAX_MEMBER_BYTES: Final = 8_000_000_000
MAX_TOTAL_BYTES: Final = 32_000_000_000
# Only larger members are checked for their ratio.
_SMALL_BYTES: Final = 10_000_000
# Endings of files that contain no conversations: media, and code of a web page.
_IGNORED_SUFFIXES: Final = frozenset(
    {
        *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg", ".heic", ".ico"),
        *(".mp3", ".mp4", ".m4a", ".wav", ".ogg", ".opus", ".mov", ".webm"),
        *(".pdf", ".docx", ".xlsx", ".pptx", ".css", ".js", ".woff", ".woff2", ".ttf", ".plist", ".lock", ".log"),
        *(".dat", ".safetensors", ".gguf", ".bin", ".pyc", ".so", ".dylib"),
        *(".db-wal", ".db-shm", ".sqlite-wal", ".sqlite-shm", ".db-journal"),
    }
)


@dataclass(frozen=True)
class Document:
    """A file that may contain conversations.

    Attributes:
        name: Its name in the named folder or zip, such as `conversations.json`.
        where: Its path for messages.
        size: Its size in bytes; 0 if unknown.
        open_binary: Opens it for reading.
        path: Its path on the disk; None for members of a zip and for standard input.
        siblings: The other files of the same folder or zip by name, which may be one export.
    """

    name: str
    where: str
    size: int
    open_binary: Callable[[], BinaryIO]
    path: Path | None = None
    siblings: dict[str, Document] = field(default_factory=dict, repr=False, compare=False)

    def sibling(self, name: str) -> Document | None:
        """Return the file of this name in the same folder of the export, or None if there is none.

        Args:
            name: Its base name.
        """
        folder = self.name.rpartition("/")[0]
        return self.siblings.get(f"{folder}/{name}" if folder else name)

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file for reading inside the `with` block.

        Yields:
            A binary stream.

        Raises:
            UserError: If it cannot be read, or it is a damaged or encrypted member of a zip.
        """
        try:
            with self.open_binary() as stream:
                yield stream
        except (zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile) as error:
            raise UserError("is cut off or damaged", self.where, "export it again") from error
        except OSError as error:
            raise from_os_error(error, self.where) from error

    @contextlib.contextmanager
    def open_database(self) -> Iterator[sqlite3.Connection]:
        """Open a SQLite database for reading inside the `with` block; nothing is written beside it.

        Yields:
            The connection, with rows by name.

        Raises:
            UserError: If it cannot be read.
        """
        with open_foreign_database(self.path, self.open_binary) as connection:
            yield connection


def open_documents(path: Path) -> Iterator[Document | Skipped]:
    """Yield the files of a path that may contain conversations.

    Args:
        path: A file, a folder, or a zip. `-` is standard input.

    Yields:
        Each file in order of its name, or why it is left out.

    Raises:
        UserError: If the path does not exist, or it is a zip that cannot be read.
    """
    if str(path) == "-":
        yield _standard_input()
        return
    path = path.expanduser()
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise from_os_error(error, path) from error
    if stat.S_ISDIR(mode):
        yield from _folder(path)
    elif not stat.S_ISREG(mode):
        raise UserError("is neither a file nor a folder", path, "name a file")
    elif _begins_with(path, b"PK\x03\x04", b"PK\x05\x06"):
        yield from _zip(path)
    else:
        yield _file(path, path.name)


def _standard_input() -> Document:
    import sys

    data = io.BytesIO(sys.stdin.buffer.read())
    return Document("standard input", "standard input", len(data.getvalue()), lambda: io.BytesIO(data.getvalue()))


def _begins_with(path: Path, *magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(magic)
    except OSError as error:
        raise from_os_error(error, path) from error


def _file(path: Path, name: str) -> Document:
    opener = _open_gzip if _begins_with(path, b"\x1f\x8b") else _open_plain
    return Document(name, escape_surrogates(path), path.stat().st_size, lambda: opener(path), path)


def _open_plain(path: Path) -> BinaryIO:
    return path.open("rb")


def _open_gzip(path: Path) -> BinaryIO:
    return io.BufferedReader(_Bounded(cast(BinaryIO, gzip.open(path, "rb")), MAX_MEMBER_BYTES))


def _folder(folder: Path) -> Iterator[Document | Skipped]:
    """Yield the files below a folder, without following links."""
    siblings: dict[str, Document] = {}
    skipped: list[Skipped] = []

    def on_error(error: OSError) -> None:
        skipped.append(Skipped(escape_surrogates(error.filename), "cannot be read"))

    for parent, folders, names in os.walk(folder, onerror=on_error):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent) / name
            relative = path.relative_to(folder).as_posix()
            if name.startswith(".") or path.suffix.lower() in _IGNORED_SUFFIXES:
                continue
            try:
                information = path.lstat()
                if stat.S_ISLNK(information.st_mode):
                    skipped.append(Skipped(escape_surrogates(path), "a link"))
                elif stat.S_ISREG(information.st_mode):
                    document = _file(path, relative)
                    siblings[relative] = Document(
                        relative, document.where, document.size, document.open_binary, path, siblings
                    )
            except (OSError, UserError):
                skipped.append(Skipped(escape_surrogates(path), "cannot be read"))
    yield from skipped
    yield from list(siblings.values())


def _zip(path: Path) -> Iterator[Document | Skipped]:
    """Yield the members of a zip."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise UserError("is a damaged or cut-off zip", path, "export it again") from error
    with archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) > MAX_MEMBERS:
            raise UserError(f"has {len(members):,} files; at most {MAX_MEMBERS:,} are read", path, "name its files")
        if sum(member.file_size for member in members) > MAX_TOTAL_BYTES:
            raise UserError("is larger than 32 GB when unpacked", path, "unpack it and name its files")
        siblings: dict[str, Document] = {}
        skipped: list[Skipped] = []
        for member in sorted(members, key=lambda member: member.filename):
            where = f"{escape_surrogates(path)}:{escape_surrogates(member.filename)}"
            reason = _member_problem(member)
            if reason is not None:
                skipped.append(Skipped(where, reason))
            elif Path(member.filename).suffix.lower() not in _IGNORED_SUFFIXES and not _is_hidden(member.filename):
                opener = _member_opener(archive, member)
                siblings[member.filename] = Document(member.filename, where, member.file_size, opener, None, siblings)
        if siblings or not skipped:
            yield from skipped
            yield from list(siblings.values())
        else:
            raise UserError(f"nothing in this zip can be read: {skipped[0].reason}", path, "export it again")


def _member_problem(member: zipfile.ZipInfo) -> str | None:
    """Return why a member of a zip is not read, or None."""
    parts = member.filename.replace("\\", "/").split("/")
    if member.filename.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        return "a path that leads out of the zip"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link"
    if member.flag_bits & 1:
        return "protected by a password"
    if member.file_size > MAX_MEMBER_BYTES:
        return "larger than 8 GB when unpacked"
    if member.file_size > _SMALL_BYTES and member.file_size > MAX_RATIO * max(member.compress_size, 1):
        return "unpacks to more than 200 times its size"
    return None


def _is_hidden(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts)


def _member_opener(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], BinaryIO]:
    # The size in the directory may be wrong, so the bytes are counted as well.
    return lambda: io.BufferedReader(_Bounded(cast(BinaryIO, archive.open(member)), member.file_size))


class _Bounded(io.RawIOBase):
    """A stream that ends with an error after a number of bytes."""

    def __init__(self, stream: BinaryIO, limit: int):
        self._stream, self._left = stream, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise zipfile.BadZipFile("larger than it says")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
