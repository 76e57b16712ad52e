"""A file that may contain conversations: on the disk, in a zip, or from standard input."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from mlx_personal.errors import UserError, escape_surrogates, from_os_error
from mlx_personal.storage.foreign_database import log_files, open_foreign_database

STANDARD_INPUT: Final = "standard input"
DAMAGED_HINT: Final = "export it again"
_DAMAGED: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile)


@dataclass(frozen=True)
class Document:
    """A file that may contain conversations.

    Attributes:
        name: Its name in the named folder or zip, such as `conversations.json`.
        where: Its path for messages.
        size: Its size in bytes; 0 if unknown.
        open_binary: Opens it for reading.
        path: Its path on the disk; None if it is compressed, a member of a zip, or standard input.
        archive: The path of the zip or the gzip file that it is in; None if it is in none.
        siblings: The other files of the same folder or zip by name, which may be one export.
        logs: The logs of all databases in the same zip by name.
    """

    name: str
    where: str
    size: int
    open_binary: Callable[[], BinaryIO]
    path: Path | None = None
    archive: Path | None = None
    siblings: dict[str, Document] = field(default_factory=dict, repr=False, compare=False)
    logs: dict[str, Document] = field(default_factory=dict, repr=False, compare=False)

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
            raise UserError("is damaged, or compressed in an unknown way", self.where, DAMAGED_HINT) from error
        except OSError as error:
            raise from_os_error(error, self.where) from error
        try:
            with stream:
                yield stream
        except _DAMAGED as error:
            raise UserError("is cut off or damaged", self.where, DAMAGED_HINT) from error
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
        logs = [self.logs.get(str(log)) for log in log_files(Path(self.name))]
        open_logs = [None if log is None else log.open for log in logs]
        with open_foreign_database(self.path, self.open, self.where, open_logs) as connection:
            yield connection


def path_name(path: Path) -> str:
    """Return the name of a path that is read, for messages.

    Args:
        path: A file, a folder, or a zip; `-` is standard input.
    """
    return STANDARD_INPUT if str(path) == "-" else escape_surrogates(path)
