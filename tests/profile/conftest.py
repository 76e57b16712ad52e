"""Fixtures of the tests of profiles."""

from __future__ import annotations

import sqlite3

import pytest

from mlx_personal.storage.database import Database


@pytest.fixture
def insecure_delete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases keep the content of free pages, as in most builds of SQLite."""
    connect = Database._connect

    def connect_insecurely(database: Database, write: bool) -> sqlite3.Connection:
        connection = connect(database, write)
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    monkeypatch.setattr(Database, "_connect", connect_insecurely)
