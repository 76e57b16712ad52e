"""Codex: both forms of rollout files, injected context, tools, sub-agents, and what is left out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal.errors import UserError
from mlx_personal.importers import read_imports
from mlx_personal.importers.formats.codex import CodexImporter
from tests.support.exports import conversations, dialogues, mutated, skipped, write_lines

Fields = dict[str, Any]
TIME = "2026-08-01T12:00:00.500Z"
EXCHANGE = [("user", "Why does the test fail?"), ("assistant", "The path is wrong.")]
CONTEXT = "<environment_context>\n<cwd>/home</cwd>\n</environment_context>"
RULES = "# AGENTS.md instructions for /home\n\n<INSTRUCTIONS>Use tabs.</INSTRUCTIONS>"


def record(kind: str, **payload: Any) -> Fields:
    return {"timestamp": TIME, "type": kind, "payload": payload}


def message(role: str, *texts: str) -> Fields:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text} for text in texts]}


def item(role: str, *texts: str) -> Fields:
    return record("response_item", **message(role, *texts))


def event(text: str, **fields: Any) -> Fields:
    return record("event_msg", type="user_message", message=text, **fields)


META = record("session_meta", id="s1", timestamp=TIME, cwd="/home", source="cli")
TURN = record("turn_context", cwd="/home", model="small")
CALL = record("response_item", type="function_call", name="shell", arguments="secret", call_id="1")
OUTPUT = record("response_item", type="function_call_output", call_id="1", output="secret output")


def test_a_session_is_read_with_its_origin(tmp_path: Path) -> None:
    records = [META, TURN, item("developer", "Rules"), item("user", CONTEXT), item("user", EXCHANGE[0][1])]
    name = record("event_msg", type="thread_name_updated", thread_name="A failing test")
    answer = [event(EXCHANGE[0][1]), item("assistant", EXCHANGE[1][1]), name]
    path = write_lines(tmp_path / "rollout-1.jsonl", [*records, *answer])
    assert dialogues(path) == [EXCHANGE]
    assert skipped(path) == ["a text that the agent's program wrote"]
    [found] = conversations(path, CodexImporter())
    assert (found.app, found.id, found.title, found.time) == ("codex", "s1", "A failing test", 1_785_585_600.5)
    assert found.turns[1].model == "small"


def test_without_events_the_messages_are_read_without_injected_texts(tmp_path: Path) -> None:
    records = [META, item("user", RULES, CONTEXT, EXCHANGE[0][1]), item("user", "<turn_aborted>\n</turn_aborted>")]
    path = write_lines(tmp_path / "rollout-1.jsonl", [*records, item("assistant", EXCHANGE[1][1])])
    assert dialogues(path) == [EXCHANGE]
    assert skipped(path) == ["a text that the agent's program wrote"] * 2


def test_files_of_older_versions_are_read(tmp_path: Path) -> None:
    first: Fields = {"id": "s1", "timestamp": TIME, "instructions": None, "git": {}}
    records = [first, {"record_type": "state"}, message("user", CONTEXT), message("user", EXCHANGE[0][1])]
    path = write_lines(tmp_path / "rollout-1.jsonl", [*records, message("assistant", EXCHANGE[1][1])])
    assert dialogues(path) == [EXCHANGE]
    assert conversations(path, CodexImporter())[0].id == "s1"


def test_only_the_closing_prose_is_an_answer_and_tools_are_counted(tmp_path: Path) -> None:
    first, last = item("assistant", "I will look."), item("assistant", EXCHANGE[1][1])
    path = write_lines(tmp_path / "rollout-1.jsonl", [META, event(EXCHANGE[0][1]), first, CALL, OUTPUT, last])
    assert dialogues(path) == [EXCHANGE]
    assert Counter(skipped(path)) == {
        "an assistant turn that calls a tool": 1,
        "the output of a tool of an agent": 1,
    }


def test_the_context_of_an_editor_is_cut_from_what_the_person_typed(tmp_path: Path) -> None:
    context = "# Context from my IDE setup:\n\n## Open tabs:\n- x.py\n\n## My request for Codex:\n"
    path = write_lines(
        tmp_path / "rollout-1.jsonl", [META, event(context + EXCHANGE[0][1]), item("assistant", EXCHANGE[1][1])]
    )
    assert dialogues(path) == [EXCHANGE]


@pytest.mark.parametrize("fields", [{"source": {"subagent": {"other": "x"}}}, {"thread_source": "subagent"}])
def test_sessions_of_sub_agents_are_left_out(tmp_path: Path, fields: Fields) -> None:
    meta = record("session_meta", id="s1", **fields)
    path = write_lines(tmp_path / "rollout-1.jsonl", [meta, META, event("Search."), item("assistant", "Found.")])
    assert dialogues(path) == []
    assert skipped(path) == ["a message of a sub-agent"]


def test_images_and_damaged_lines_are_left_out(tmp_path: Path) -> None:
    image = [event("", images=["data:"]), item("assistant", "A pear.")]
    path = write_lines(tmp_path / "rollout-1.jsonl", [META, event(EXCHANGE[0][1]), item("assistant", EXCHANGE[1][1])])
    path.write_text(path.read_text() + "{\n")
    assert dialogues(path) == [EXCHANGE]
    assert [reason.startswith("not JSON") for reason in skipped(path)] == [True]
    path = write_lines(tmp_path / "rollout-2.jsonl", [META, *image])
    assert dialogues(path) == []


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_sessions_never_raise(tmp_path: Path, data: st.DataObject) -> None:
    records = [META, TURN, item("user", CONTEXT), event("x", images=[]), CALL, OUTPUT, item("assistant", "y")]
    path = write_lines(tmp_path / "rollout-1.jsonl", data.draw(mutated(records)))
    try:
        list(read_imports(path, "codex"))
    except UserError as error:
        assert "\n" not in str(error)
