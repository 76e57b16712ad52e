"""Read the rows of Parquet files with pyarrow, an optional dependency."""

from __future__ import annotations

from collections.abc import Iterator

from mlx_personal.errors import UserError
from mlx_personal.importers.conversation import Skipped
from mlx_personal.importers.document import Document
from mlx_personal.importers.json_records import Record

# Rows of long conversations are large, and all rows of a batch are in memory at once.
_BATCH_ROWS = 64


def read_parquet(document: Document) -> Iterator[Record | Skipped]:
    """Yield the rows of a Parquet file.

    Args:
        document: The file.

    Yields:
        Each row as an object, or why the rest cannot be read.

    Raises:
        UserError: If pyarrow is not installed, or the file cannot be read.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        hint = "pip install 'mlx-personal[study]'"
        raise UserError("Parquet files need pyarrow, which is not installed", document.where, hint) from error
    number = 0
    with document.open() as stream:
        try:
            # A member of a zip is read as a whole, because the index of a Parquet file is at its end.
            source = document.path or pyarrow.BufferReader(stream.read())
            with pyarrow.parquet.ParquetFile(source) as file:
                for batch in file.iter_batches(_BATCH_ROWS):
                    for row in batch.to_pylist():
                        number += 1
                        yield Record(row, f"{document.where}:{number}")
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            if number == 0:
                raise UserError("is a damaged Parquet file", document.where, "export it again") from error
            yield Skipped(f"{document.where}:{number + 1}", "a damaged Parquet file from here on", is_damaged=True)
