"""The files that importers read: on the disk, in a folder, in a zip, compressed, or from standard input.

Nothing outside a named path is opened: links that lead out of a folder and members of a zip that would are skipped, and
nothing is unpacked to the disk.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
import sqlite3
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from mlx_personal.errors import StorageError, UserError, escape_surrogates, from_os_error
from mlx_personal.importers.conversation import Skipped
from mlx_personal.storage.foreign_database import open_foreign_database

# A zip of text is seldom compressed to less than a fiftieth; a bomb is compressed to a thousandth.
MAX_RATIO: Final = 200
MAX_MEMBERS: Final = 100_000
MAX_MEMBER_BYTES: Final = 8_000_000_000
MAX_TOTAL_BYTES: Final = 32_000_000_000
# Only larger members are checked for their ratio.
_SMALL_BYTES: Final = 10_000_000
_TOO_LARGE: Final = f"unpacks to more than {MAX_RATIO} times its size"
_DAMAGED: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile)
_DAMAGED_HINT: Final = "export it again"
_ZIP_MAGIC: Final = (b"PK\x03\x04", b"PK\x05\x06")
_GZIP_MAGIC: Final = b"\x1f\x8b"
# Endings of files that contain no conversations: media, and code of a web page.
_IGNORED_SUFFIXES: Final = frozenset(
    {
        *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg", ".heic", ".ico"),
        *(".mp3", ".mp4", ".m4a", ".wav", ".ogg", ".opus", ".mov", ".webm"),
        *(".pdf", ".docx", ".xlsx", ".pptx", ".css", ".js", ".woff", ".woff2", ".ttf", ".plist", ".lock", ".log"),
        *(".dat", ".safetensors", ".gguf", ".bin", ".pyc", ".so", ".dylib"),
        *(".db-wal", ".db-shm", ".db-journal", ".sqlite-wal", ".sqlite-shm", ".sqlite-journal"),
    }
)
# Of the scripts in an archive of X, those with the chats with Grok.
_CHATS_IN_A_SCRIPT: Final = "grok-chat-item"

_STANDARD_INPUT: Final = "standard input"
_PASSWORD: Final = "protected by a password"


@dataclass(frozen=True)
class Document:
    """A file that may contain conversations.

    Attributes:
        name: Its name in the named folder or zip, such as `conversations.json`.
        where: Its path for messages.
        size: Its size in bytes; 0 if unknown.
        open_binary: Opens it for reading.
        path: Its path on the disk; None for members of a zip and for standard input.
        archive: The zip that it is a member of; None if it is none.
        siblings: The other files of the same folder or zip by name, which may be one export.
    """

    name: str
    where: str
    size: int
    open_binary: Callable[[], BinaryIO]
    path: Path | None = None
    archive: Path | None = None
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
            stream = self.open_binary()
        except (*_DAMAGED, NotImplementedError, RuntimeError, ValueError, struct.error) as error:
            raise UserError("is damaged, or compressed in an unknown way", self.where, _DAMAGED_HINT) from error
        except OSError as error:
            raise from_os_error(error, self.where) from error
        try:
            with stream:
                yield stream
        except _DAMAGED as error:
            raise UserError("is cut off or damaged", self.where, _DAMAGED_HINT) from error
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
        with open_foreign_database(self.path, self.open_binary, self.where) as connection:
            yield connection


def path_name(path: Path) -> str:
    """Return the name of a path that is read, for messages.

    Args:
        path: A file, a folder, or a zip; `-` is standard input.
    """
    return _STANDARD_INPUT if str(path) == "-" else escape_surrogates(path)


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
        yield from _standard_input()
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
    elif _begins_with(path, *_ZIP_MAGIC):
        yield from _zip(path, escape_surrogates(path))
    else:
        yield _file(path, path.name)


def file_document(path: Path) -> Document:
    """Return a file that is named itself, decompressed if it is a gzip file.

    Args:
        path: The file.

    Raises:
        UserError: If it does not exist, or is no file.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise from_os_error(error, path) from error
    if stat.S_ISDIR(mode):
        raise UserError("is a folder, not a file", path, "name the files in it")
    if not stat.S_ISREG(mode):
        raise UserError("is neither a file nor a folder", path, "name a file")
    return _file(path, path.name)


def _standard_input() -> Iterator[Document | Skipped]:
    import sys

    data, where = sys.stdin.buffer.read(), _STANDARD_INPUT
    if data.startswith(_ZIP_MAGIC):
        yield from _zip(io.BytesIO(data), where)
    elif data.startswith(_GZIP_MAGIC):
        yield Document(where, where, _unpacked_size(data[-4:]), lambda: _open_gzip(io.BytesIO(data), len(data), where))
    else:
        yield Document(where, where, len(data), lambda: io.BytesIO(data))


def _begins_with(path: Path, *magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(magic)
    except OSError as error:
        raise from_os_error(error, path) from error


def _file(path: Path, name: str) -> Document:
    where, size = escape_surrogates(path), path.stat().st_size
    if not _begins_with(path, _GZIP_MAGIC):
        return Document(name, where, size, lambda: path.open("rb"), path)
    with path.open("rb") as file:
        file.seek(max(0, size - 4))
        unpacked_size = _unpacked_size(file.read())
    return Document(name, where, unpacked_size, lambda: _open_gzip(path, size, where), path)


def _unpacked_size(trailer: bytes) -> int:
    """Return the size, modulo 4 GiB, that the last bytes of a gzip file give for its content."""
    return int.from_bytes(trailer, "little")


def _open_gzip(source: Path | BinaryIO, size: int, where: str) -> BinaryIO:
    """Open a gzip file for reading, up to `MAX_RATIO` times its size."""
    limit = min(MAX_MEMBER_BYTES, max(_SMALL_BYTES, MAX_RATIO * size))
    return io.BufferedReader(_Bounded(cast(BinaryIO, gzip.open(source, "rb")), limit, where))


def _folder(folder: Path) -> Iterator[Document | Skipped]:
    """Yield the files below a folder and the members of the zips in it, without following links."""
    siblings: dict[str, Document] = {}
    archives: list[tuple[Path, str]] = []
    skipped: list[Skipped] = []

    def on_error(error: OSError) -> None:
        skipped.append(Skipped(escape_surrogates(error.filename), "cannot be read", is_damaged=True))

    for parent, folders, names in os.walk(folder, onerror=on_error):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        skipped += [
            Skipped(escape_surrogates(Path(parent) / name), "a link")
            for name in folders
            if (Path(parent) / name).is_symlink()
        ]
        for name in sorted(names):
            path = Path(parent) / name
            relative = path.relative_to(folder).as_posix()
            if name.startswith(".") or _is_ignored(name):
                continue
            try:
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode) and path.suffix.lower() == ".zip" and _begins_with(path, *_ZIP_MAGIC):
                    archives.append((path, relative))
                elif stat.S_ISREG(mode):
                    siblings[relative] = replace(_file(path, relative), siblings=siblings)
                else:
                    reason = "a link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                    skipped.append(Skipped(escape_surrogates(path), reason))
            except (OSError, UserError):
                skipped.append(Skipped(escape_surrogates(path), "cannot be read", is_damaged=True))
    yield from skipped
    yield from list(siblings.values())
    for path, relative in archives:
        try:
            yield from _zip(path, escape_surrogates(path), f"{relative}/")
        except StorageError:
            raise
        except UserError as error:
            yield Skipped(escape_surrogates(path), error.what, is_damaged=True)


def _zip(source: Path | BinaryIO, where: str, prefix: str = "") -> Iterator[Document | Skipped]:
    """Yield the members of a zip, with a prefix before their names."""
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise UserError("is a damaged or cut-off zip", where, _DAMAGED_HINT) from error
    except OSError as error:
        raise from_os_error(error, where) from error
    with archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) > MAX_MEMBERS:
            raise UserError(f"has {len(members):,} files; at most {MAX_MEMBERS:,} are read", where, "name its files")
        if sum(member.file_size for member in members) > MAX_TOTAL_BYTES:
            what = f"unpacks to more than {MAX_TOTAL_BYTES // 1_000_000_000} GB"
            raise UserError(what, where, "unpack it and name its files")
        siblings: dict[str, Document] = {}
        skipped: list[Skipped] = []
        for member in sorted(members, key=lambda member: member.filename):
            member_where = f"{where}:{escape_surrogates(member.filename)}"
            reason = _member_problem(member)
            name = prefix + member.filename
            if name in siblings:
                reason = "a second file of the same name"
            if reason is not None:
                skipped.append(Skipped(member_where, reason))
            elif not _is_ignored(member.filename) and not _is_hidden(member.filename):
                archive_path = source if isinstance(source, Path) else None
                siblings[name] = replace(
                    _member(archive, member, member_where), name=name, archive=archive_path, siblings=siblings
                )
        if siblings or not skipped:
            yield from skipped
            yield from list(siblings.values())
        else:
            hint = "unpack it and name its files" if skipped[0].reason == _PASSWORD else _DAMAGED_HINT
            raise UserError(f"nothing in this zip can be read: {skipped[0].reason}", where, hint)


def _member_problem(member: zipfile.ZipInfo) -> str | None:
    """Return why a member of a zip is not read, or None."""
    parts = member.filename.replace("\\", "/").split("/")
    if member.filename.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        return "a path that leads out of the zip"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link"
    if member.flag_bits & 1:
        return _PASSWORD
    if member.file_size > MAX_MEMBER_BYTES:
        return f"unpacks to more than {MAX_MEMBER_BYTES // 1_000_000_000} GB"
    if member.file_size > _SMALL_BYTES and member.file_size > MAX_RATIO * max(member.compress_size, 1):
        return _TOO_LARGE
    return None


def _is_ignored(name: str) -> bool:
    base_name = name.rpartition("/")[2].lower()
    return Path(base_name).suffix in _IGNORED_SUFFIXES and not base_name.startswith(_CHATS_IN_A_SCRIPT)


def _is_hidden(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> Document:
    """Return a member of a zip, decompressed if it is a gzip file."""

    def open_binary() -> BinaryIO:
        stream = cast(BinaryIO, archive.open(member))
        return _open_gzip(stream, member.file_size, where) if member.filename.endswith(".gz") else stream

    return Document(member.filename, where, member.file_size, open_binary)


class _Bounded(io.RawIOBase):
    """A stream that ends with an error after a number of bytes."""

    def __init__(self, stream: BinaryIO, limit: int, where: str):
        self._stream, self._left, self._where = stream, limit, where

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise UserError(_TOO_LARGE, self._where, "unpack it and name its files")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
