"""Members of zips, and files compressed with gzip, within limits that keep a hostile one from filling memory or time.

Nothing is unpacked to the disk, and members that would lead out of the zip are skipped.
"""

from __future__ import annotations

import gzip
import io
import stat
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final, cast

from mlx_personal.errors import UserError, escape_surrogates, from_os_error
from mlx_personal.importers.conversation import Skipped
from mlx_personal.importers.document import DAMAGED_HINT, Document
from mlx_personal.importers.file_names import is_database_log, is_hidden, is_ignored
from mlx_personal.importers.streams import BoundedStream, CountedStream

# A zip of text is seldom compressed to less than a fiftieth; a bomb is compressed to a thousandth.
MAX_RATIO: Final = 200
MAX_MEMBERS: Final = 100_000
MAX_MEMBER_BYTES: Final = 8_000_000_000
MAX_TOTAL_BYTES: Final = 32_000_000_000
ZIP_MAGIC: Final = (b"PK\x03\x04", b"PK\x05\x06")
GZIP_MAGIC: Final = b"\x1f\x8b"
# Only larger members are checked for their ratio.
_SMALL_BYTES: Final = 10_000_000
_TOO_LARGE: Final = f"unpacks to more than {MAX_RATIO} times its size"
_PASSWORD: Final = "protected by a password"


def zip_documents(source: Path | BinaryIO, where: str, prefix: str = "") -> Iterator[Document | Skipped]:
    """Yield the members of a zip that may contain conversations, or why one is left out.

    Args:
        source: The zip.
        where: Its path for messages.
        prefix: What is put before the names of its members.

    Raises:
        UserError: If it cannot be read, has too much in it, or nothing in it can be read.
    """
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise UserError("is a damaged or cut-off zip", where, DAMAGED_HINT) from error
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
        logs: dict[str, Document] = {}
        skipped: list[Skipped] = []
        for member in sorted(members, key=lambda member: member.filename):
            member_where = f"{where}:{escape_surrogates(member.filename)}"
            reason = _member_problem(member)
            name = prefix + member.filename
            if name in siblings:
                reason = "a second file of the same name"
            if reason is not None:
                skipped.append(Skipped(member_where, reason))
            elif is_database_log(member.filename):
                logs[name] = _member(archive, member, member_where)
            elif not is_ignored(member.filename) and not is_hidden(member.filename):
                found = _member(archive, member, member_where)
                archive_path = source if isinstance(source, Path) else None
                siblings[name] = replace(found, name=name, archive=archive_path, siblings=siblings, logs=logs)
        if siblings or not skipped:
            yield from skipped
            yield from list(siblings.values())
        else:
            hint = "unpack it and name its files" if skipped[0].reason == _PASSWORD else DAMAGED_HINT
            raise UserError(f"nothing in this zip can be read: {skipped[0].reason}", where, hint)


def gzip_document(path: Path, name: str) -> Document:
    """Return a gzip file on the disk, decompressed.

    Args:
        path: The file.
        name: Its name in the folder that is read.
    """
    where = escape_surrogates(path)
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4))
        content_bytes = int.from_bytes(file.read(), "little")  # modulo 4 GiB, and of a damaged file any number
    return Document(name, where, content_bytes, lambda: open_gzip(path.open("rb"), where), archive=path)


def open_gzip(source: BinaryIO, where: str) -> BinaryIO:
    """Open a gzip file for reading, up to `MAX_RATIO` times as many bytes as it has.

    Args:
        source: The file, which is closed with the returned stream.
        where: Its path for messages.
    """
    packed_bytes = 0

    def on_read(size: int) -> None:
        nonlocal packed_bytes
        packed_bytes += size

    content = _GzipFile(cast(BinaryIO, CountedStream(source, on_read)))

    def too_large() -> UserError:
        return UserError(_TOO_LARGE, where, "unpack it and name its files")

    return io.BufferedReader(
        BoundedStream(cast(BinaryIO, content), lambda: _max_content_bytes(packed_bytes), too_large)
    )


class _GzipFile(gzip.GzipFile):
    """A gzip file that is closed with the stream that it is read from."""

    def __init__(self, source: BinaryIO):
        super().__init__(fileobj=source, mode="rb")
        self._source = source

    def close(self) -> None:
        super().close()
        self._source.close()


def _max_content_bytes(packed_bytes: int) -> int:
    return min(MAX_MEMBER_BYTES, max(_SMALL_BYTES, MAX_RATIO * packed_bytes))


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
    if member.file_size > _max_content_bytes(member.compress_size):
        return _TOO_LARGE
    return None


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> Document:
    """Return a member of a zip, decompressed if it is a gzip file."""

    def open_binary() -> BinaryIO:
        stream = cast(BinaryIO, archive.open(member))
        return open_gzip(stream, where) if member.filename.endswith(".gz") else stream

    return Document(member.filename, where, member.file_size, open_binary)
