"""The Ollama app: chats, tools and files in its database, its write-ahead log, and databases that cannot be read."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mlx_personal.errors import UserError
from mlx_personal.importers import Skipped, read_imports
from mlx_personal.importers.formats.ollama_app import OllamaAppImporter
from tests.support.exports import conversations, dialogues, skipped, write_database

TABLES = """
CREATE TABLE chats (id TEXT PRIMARY KEY, title TEXT, created_at TIMESTAMP);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY, chat_id TEXT, role TEXT, content TEXT, thinking TEXT, model_name TEXT, created_at TIMESTAMP
);
CREATE TABLE tool_calls (id INTEGER PRIMARY KEY, message_id INTEGER, function_name TEXT);
CREATE TABLE attachments (id INTEGER PRIMARY KEY, message_id INTEGER, filename TEXT, data BLOB);
"""
DAY = "2025-08-01 12:00:00.123456789+00:00"
CHAT = ("c1", "Pears", DAY)
QUESTION = (1, "c1", "user", "Which pear keeps?", None, None, DAY)
ANSWER = (2, "c1", "assistant", "The winter pear.", "It keeps.", "small", DAY)
EXCHANGE = [("user", "Which pear keeps?"), ("assistant", "The winter pear.")]


def write(path: Path, **rows: list[tuple[Any, ...]]) -> Path:
    return write_database(path, TABLES, {"chats": [CHAT], "messages": [QUESTION, ANSWER], **rows})


def test_a_database_is_read_with_its_origin(tmp_path: Path) -> None:
    path = write(tmp_path / "db.sqlite")
    assert dialogues(path) == [EXCHANGE]
    [found] = conversations(path, OllamaAppImporter())
    assert (found.app, found.id, found.title) == ("ollama-app", "c1", "Pears")
    assert found.time == pytest.approx(1754049600.1234567)
    assert [turn.model for turn in found.turns] == ["", "small"]


def test_a_database_of_an_older_version_is_read(tmp_path: Path) -> None:
    tables = "CREATE TABLE chats (id TEXT); CREATE TABLE messages (id, chat_id, role, content, model_name);"
    rows: dict[str, list[tuple[Any, ...]]] = {
        "chats": [("c1",)],
        "messages": [(*QUESTION[:4], None), (*ANSWER[:4], "small")],
    }
    assert dialogues(write_database(tmp_path / "db.sqlite", tables, rows)) == [EXCHANGE]


def test_text_before_a_tool_is_no_answer_and_its_result_is_context(tmp_path: Path) -> None:
    call = (2, "c1", "assistant", "I will look.", None, "small", DAY)
    result = (3, "c1", "tool", "pears: winter", None, None, DAY)
    path = write(
        tmp_path / "db.sqlite", messages=[QUESTION, call, result, (4, *ANSWER[1:])], tool_calls=[(1, 2, "search")]
    )
    assert dialogues(path) == [[EXCHANGE[0], ("tool", "pears: winter"), EXCHANGE[1]]]
    assert skipped(path) == ["an assistant turn that calls a tool"]


def test_a_tool_result_in_its_own_column_is_read(tmp_path: Path) -> None:
    tables = "CREATE TABLE chats (id); CREATE TABLE messages (id, chat_id, role, content, model_name, tool_result);"
    messages = [(1, "c1", "user", "Which pear keeps?", "", None), (2, "c1", "tool", "", "", "pears: winter")]
    rows: dict[str, list[tuple[Any, ...]]] = {"chats": [("c1",)], "messages": messages}
    rows["messages"].append((3, "c1", "assistant", "The winter pear.", "small", None))
    path = write_database(tmp_path / "db.sqlite", tables, rows)
    assert dialogues(path) == [[EXCHANGE[0], ("tool", "pears: winter"), EXCHANGE[1]]]


def test_files_empty_chats_and_unknown_roles_are_left_out_and_counted(tmp_path: Path) -> None:
    file, other = (1, "c1", "user", "", None, None, DAY), (3, "c1", "narrator", "Meanwhile", None, None, DAY)
    empty = ("c2", "", "1970-01-01 00:00:00+00:00")
    path = write(
        tmp_path / "db.sqlite",
        chats=[CHAT, empty],
        messages=[file, ANSWER, other],
        attachments=[(1, 1, "pear.png", b"\x89PNG")],
    )
    assert skipped(path) == ["a chat without messages", "a user turn with file only"]


def test_the_write_ahead_log_of_a_running_app_is_read_and_nothing_is_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "db.sqlite")
    app = sqlite3.connect(path, isolation_level=None)
    app.execute("PRAGMA journal_mode = WAL")
    app.execute("UPDATE messages SET content = 'Conference.' WHERE id = 2")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert dialogues(path) == [[EXCHANGE[0], ("assistant", "Conference.")]]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    app.close()


def test_values_of_other_types_are_no_obstacle(tmp_path: Path) -> None:
    chats = [(7, 8, 4_200_000_000), ("c1", None, b"\xff")]
    messages = [(1, "c1", "user", b"\xff", None, None, None), (2, "c1", b"\xff", "x", None, 3, 0), (3, *ANSWER[1:])]
    path = write(tmp_path / "db.sqlite", chats=chats, messages=messages)
    assert skipped(path) == ["a chat without messages", "an empty user message"]


@pytest.mark.parametrize("content", [b"SQLite format 3\0", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_database_is_left_out_with_its_reason(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "db.sqlite"
    path.write_bytes(content)
    try:
        items = list(read_imports(path))
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert [isinstance(item, Skipped) for item in items] == [True]


def test_a_database_of_another_app_is_not_taken_for_one(tmp_path: Path) -> None:
    path = write_database(tmp_path / "db.sqlite", "CREATE TABLE messages (id, chat_id, role, content);", {})
    with pytest.raises(UserError, match="is in no format that can be read"):
        list(read_imports(path))
    with pytest.raises(UserError, match="cannot be read as a database"):
        list(read_imports(path, "ollama-app"))
