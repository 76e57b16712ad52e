"""The log database of `llm`: both generations of its schema, tools, fragments, and conversations in both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlx_personal.importers.formats.llm_logs import LLMLogsImporter
from tests.support.exports import conversations, dialogues, skipped, write_database

OLD = """
CREATE TABLE conversations (id TEXT PRIMARY KEY, name TEXT, model TEXT);
CREATE TABLE responses (
    id TEXT, model TEXT, prompt TEXT, system TEXT, response TEXT, conversation_id TEXT, datetime_utc TEXT
);
CREATE TABLE fragments (id INTEGER PRIMARY KEY, hash TEXT, content TEXT);
CREATE TABLE prompt_fragments (response_id TEXT, fragment_id INTEGER, "order" INTEGER);
CREATE TABLE tool_calls (id INTEGER PRIMARY KEY, response_id TEXT, name TEXT);
CREATE TABLE tool_results (id INTEGER PRIMARY KEY, response_id TEXT, output TEXT);
"""
NEW = """
CREATE TABLE threads (id TEXT PRIMARY KEY, name TEXT, tip_message_hash TEXT, forked_from TEXT, datetime_utc TEXT);
CREATE TABLE turns (id TEXT PRIMARY KEY, thread_id TEXT, tip_message_hash TEXT, model TEXT, datetime_utc TEXT);
CREATE TABLE messages (hash TEXT PRIMARY KEY, parent_hash TEXT, role TEXT);
CREATE TABLE parts (
    id INTEGER PRIMARY KEY, message_hash TEXT, position INTEGER, type TEXT, tool_name TEXT, text TEXT, payload TEXT
);
"""
DAY = "2026-08-01T12:00:00.5+00:00"
TIME = 1_785_585_600.5
EXCHANGE = [("user", "Which pear keeps?"), ("assistant", "The winter pear.")]
FOLLOWING = [("user", "And which apple?"), ("assistant", "Boskoop.")]
RESPONSE = ("r1", "small", "Which pear keeps?", None, "The winter pear.", "c1", DAY)
THREAD = ("c1", "Pears", "a", None, DAY)
MESSAGES = [("q", None, "user"), ("a", "q", "assistant")]
PARTS = [
    (1, "q", 0, "text", None, "Which pear keeps?", None),
    (2, "a", 0, "reasoning", None, "It keeps.", None),
    (3, "a", 1, "text", None, "The winter pear.", None),
]


def write(path: Path, script: str, **rows: list[tuple[Any, ...]]) -> Path:
    return write_database(path, script, rows)


def test_the_older_schema_is_read_with_its_origin(tmp_path: Path) -> None:
    system = ("r0", "small", "Which pear keeps?", "Be brief.", "The winter pear.", "c1", DAY)
    later = ("r2", "large", "And which apple?", "Be brief.", "Boskoop.", "c1", "2026-08-02T12:00:00")
    loose = ("r3", "small", "Which pear keeps?", None, "The winter pear.", None, None)
    path = write(tmp_path / "logs.db", OLD, conversations=[("c1", "Pears", "")], responses=[later, system, loose])
    assert dialogues(path) == [[("system", "Be brief."), *EXCHANGE, *FOLLOWING], EXCHANGE]
    first, second = conversations(path, LLMLogsImporter())
    assert (first.app, first.id, first.title, first.time) == ("llm", "c1", "Pears", TIME)
    assert [turn.model for turn in first.turns] == ["", "", "small", "", "large"]
    assert (second.id, second.title, second.time) == ("r3", "", None)


def test_fragments_are_part_of_the_prompt_and_tools_are_context(tmp_path: Path) -> None:
    call = ("r1", "small", "Which keeps?", None, "I will look.", "c1", "2026-08-01T12:00:00")
    answer = ("r2", "small", "", None, "The winter pear.", "c1", "2026-08-01T12:00:01")
    path = write(
        tmp_path / "logs.db",
        OLD,
        responses=[call, answer],
        fragments=[(1, "h", "A list of pears.")],
        prompt_fragments=[("r1", 1, 0)],
        tool_calls=[(1, "r1", "search")],
        tool_results=[(1, "r2", "pears: winter")],
    )
    assert dialogues(path) == [[("user", "A list of pears.\nWhich keeps?"), ("tool", "pears: winter"), EXCHANGE[1]]]
    assert skipped(path) == ["an assistant turn that calls a tool"]


def test_the_newer_schema_is_read_from_the_last_message(tmp_path: Path) -> None:
    path = write(
        tmp_path / "logs.db",
        NEW,
        threads=[THREAD],
        turns=[("t1", "c1", "a", "small", DAY), ("t2", None, "b", "small", DAY)],
        messages=[*MESSAGES, ("b", "q", "assistant")],
        parts=[*PARTS, (4, "b", 0, "text", None, "Any pear.", None)],
    )
    assert dialogues(path) == [EXCHANGE, [EXCHANGE[0], ("assistant", "Any pear.")]]
    thread, loose = conversations(path, LLMLogsImporter())
    assert (thread.id, thread.title, thread.time) == ("c1", "Pears", TIME)
    assert (thread.turns[1].model, thread.turns[1].time) == ("small", TIME)
    assert loose.id == "t2"


def test_tools_and_fragments_of_the_newer_schema_are_read(tmp_path: Path) -> None:
    messages = [("q", None, "user"), ("c", "q", "assistant"), ("r", "c", "tool"), ("a", "r", "assistant")]
    pieces = {"text_ref": [{"literal": "Which "}, {"fragment": 1}, {"fragment": 9}, {}]}
    parts = [
        (1, "q", 0, "text", None, None, json.dumps(pieces)),
        (2, "c", 0, "text", None, "I will look.", None),
        (3, "c", 1, "tool_call", "find", None, json.dumps({"name": "find", "arguments": {}})),
        (4, "r", 0, "tool_result", "find", None, json.dumps({"name": "find", "output": "pears: winter"})),
        (5, "a", 0, "text", None, "The winter pear.", None),
    ]
    script = NEW + "CREATE TABLE fragments (id INTEGER PRIMARY KEY, hash TEXT, content TEXT);"
    path = write(
        tmp_path / "logs.db",
        script,
        threads=[THREAD],
        messages=messages,
        parts=parts,
        fragments=[(1, "h", "pear keeps?")],
    )
    assert dialogues(path) == [[EXCHANGE[0], ("tool", "pears: winter"), EXCHANGE[1]]]


def test_a_conversation_in_both_schemas_is_read_once(tmp_path: Path) -> None:
    other = ("r2", "small", "And which apple?", None, "Boskoop.", "c2", DAY)
    path = write(
        tmp_path / "logs.db",
        OLD + NEW,
        threads=[THREAD, ("c2", "", None, None, DAY)],
        messages=MESSAGES,
        parts=PARTS,
        responses=[RESPONSE, other],
    )
    assert dialogues(path) == [EXCHANGE, FOLLOWING]


def test_cycles_missing_parents_and_empty_threads_are_no_obstacle(tmp_path: Path) -> None:
    path = write(
        tmp_path / "logs.db",
        NEW,
        threads=[THREAD, ("c2", "", "lost", None, "1970-01-01"), ("c3", "", None, None, None)],
        messages=[("q", "a", "user"), ("a", "q", "assistant")],
        parts=PARTS,
    )
    assert dialogues(path) == [EXCHANGE]
    assert skipped(path) == ["a conversation without messages"] * 2
