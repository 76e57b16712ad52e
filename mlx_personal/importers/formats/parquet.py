"""Read the rows of Parquet files with pyarrow, an optional dependency."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from mlx_personal.errors import UserError
from mlx_personal.importers.archives import MAX_MEMBER_BYTES
from mlx_personal.importers.conversation import Skipped
from mlx_personal.importers.document import DAMAGED_HINT, Document
from mlx_personal.importers.json_records import Record
from mlx_personal.importers.streams import BoundedStream
from mlx_personal.storage.files import temporary_copy

# Rows of long conversations are large, and all rows of a batch are in memory at once.
_BATCH_ROWS: Final = 64
# Read by this much, and not a whole column at once.
_BUFFER_BYTES: Final = 1_048_576


def read_parquet(document: Document) -> Iterator[Record | Skipped]:
    """Yield the rows of a Parquet file.

    Args:
        document: The file.

    Yields:
        Each row as an object, or why the rest cannot be read.

    Raises:
        UserError: If pyarrow is not installed, or the file cannot be read.
    """
    pyarrow = import_pyarrow(document.where)
    number = 0
    with document.open() as stream, _file(document, stream) as source:
        try:
            with pyarrow.parquet.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
                for batch in file.iter_batches(_BATCH_ROWS, use_threads=False):
                    for row in batch.to_pylist():
                        number += 1
                        yield Record(row, f"{document.where}:{number}")
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            if number == 0:
                raise UserError("is a damaged Parquet file", document.where, DAMAGED_HINT) from error
            yield Skipped(f"{document.where}:{number + 1}", "a damaged Parquet file from here on", is_damaged=True)


def import_pyarrow(where: str) -> Any:
    """Return the package `pyarrow`, with `pyarrow.parquet`.

    Args:
        where: The file that is to be read, for the error.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        hint = "pip install 'mlx-personal[study]'"
        raise UserError("Parquet files need pyarrow, which is not installed", where, hint) from error
    return pyarrow


def _file(document: Document, stream: BinaryIO) -> AbstractContextManager[Path | BinaryIO]:
    """Return the file or a temporary copy of it, because the index of a Parquet file is at its end."""
    if document.path is not None:
        return contextlib.nullcontext(document.path)

    def too_large() -> UserError:
        what = f"is larger than {MAX_MEMBER_BYTES // 1_000_000_000} GB"
        return UserError(what, document.where, "split it")

    return temporary_copy(cast(BinaryIO, BoundedStream(stream, lambda: MAX_MEMBER_BYTES, too_large)))
