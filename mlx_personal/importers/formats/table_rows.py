"""Read rows of other programs' SQLite tables, of which some columns may be missing in older versions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from mlx_personal.importers.head import Head


def read_rows(
    connection: sqlite3.Connection, head: Head, table: str, columns: Sequence[str], rest: str = "", values: Any = ()
) -> Iterator[sqlite3.Row]:
    """Yield the rows of a table.

    Args:
        connection: The connection.
        head: The beginning of the file, with the columns of its tables.
        table: Name of the table.
        columns: Names of the columns to read; one that is missing is NULL.
        rest: The clauses after the name of the table, such as `ORDER BY id`.
        values: Values of the parameters in them.

    Raises:
        sqlite3.Error: If the database cannot be read.
    """
    names = [f'"{column}"' if f"{table}.{column}" in head.keys else f'NULL AS "{column}"' for column in columns]
    # `yield from` would close the cursor, which fails if an error ended the reading and closed the connection.
    for row in connection.execute(f'SELECT {", ".join(names)} FROM "{table}" {rest}', values):  # noqa: UP028
        yield row


def json_value(value: object) -> Any:
    """Return the value of a JSON column; None if it is missing or damaged.

    Args:
        value: The column's text.
    """
    if not isinstance(value, str | bytes):
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
