"""Helpers for tests of importers: write an export, read it back, and damage it."""

from __future__ import annotations

import copy
import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from mlx_personal.importers import Conversation, ImportedDialogue, Skipped, read_imports
from mlx_personal.importers.head import read_head
from mlx_personal.importers.importer import Importer
from mlx_personal.importers.paths import open_documents

Exchanges = list[tuple[str, str]]

# Values that no exporter writes, in the place of one that it does.
DAMAGED = st.sampled_from(
    (None, True, 0, -1, 1e400, 10**30, "", "\0", "\ud800", [], {}, [None], {"": None}, [[]], "9999-99-99", "user")
)


def write_json(path: Path, value: Any) -> Path:
    """Write a value as JSON, and return the path."""
    path.write_text(json.dumps(value))
    return path


def write_lines(path: Path, values: Iterable[Any]) -> Path:
    """Write a value a line, and return the path."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def write_database(path: Path, script: str, rows: dict[str, list[tuple[Any, ...]]]) -> Path:
    """Write a SQLite database with rows of each table, and return the path."""
    connection = sqlite3.connect(path)
    connection.executescript(script)
    for table, values in rows.items():
        for row in values:
            connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    connection.commit()
    connection.close()
    return path


def dialogues(path: Path) -> list[Exchanges]:
    """Return role and text of each message of the dialogues of an export."""
    items = [item for item in read_imports(path) if isinstance(item, ImportedDialogue)]
    return [[(message.role, message.content) for message in item.dialogue.messages] for item in items]


def skipped(path: Path) -> list[str]:
    """Return the reasons of what is left out of an export."""
    return [item.reason for item in read_imports(path) if isinstance(item, Skipped)]


def conversations(path: Path, importer: Importer) -> list[Conversation]:
    """Return the conversations that an importer recognizes and reads in a file."""
    found: list[Conversation] = []
    for document in open_documents(path):
        assert not isinstance(document, Skipped)
        head = read_head(document)
        assert importer.sniff(head) > 0
        found += [item for item in importer.read(document, head) if isinstance(item, Conversation)]
    return found


def places(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all values inside a JSON value."""
    found = [prefix] if prefix else []
    if isinstance(value, dict):
        for key, child in value.items():
            found += places(child, (*prefix, key))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            found += places(child, (*prefix, number))
    return found


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """Draw a JSON value in which some values are replaced by damaged ones or are missing."""
    changed = copy.deepcopy(value)
    for place in draw(st.lists(st.sampled_from(places(value)), max_size=4)):
        target = changed
        for key in place[:-1]:
            try:
                target = target[key]
            except (KeyError, IndexError, TypeError):  # an earlier change replaced it
                break
        else:
            try:
                if draw(st.booleans()):
                    target[place[-1]] = copy.deepcopy(draw(DAMAGED))
                else:
                    del target[place[-1]]
            except (KeyError, IndexError, TypeError):
                continue
    return changed
