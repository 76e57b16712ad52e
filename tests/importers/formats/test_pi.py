"""Pi: the present branch of a session, tools, the program's own texts, and files of the first version."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal.errors import UserError
from mlx_personal.importers import read_imports
from mlx_personal.importers.formats.pi import PiImporter
from tests.support.exports import conversations, dialogues, mutated, skipped, write_lines

Fields = dict[str, Any]
TIME = "2026-08-01T12:00:00.500Z"
HEADER = {"type": "session", "version": 3, "id": "s1", "timestamp": TIME, "cwd": "/home"}
EXCHANGE = [("user", "Why does the test fail?"), ("assistant", "The path is wrong.")]


def entry(key: str, parent: str | None, role: str, content: Any, **fields: Any) -> Fields:
    message = {"role": role, "content": content, "timestamp": 1_785_585_601_000, **fields}
    return {"type": "message", "id": key, "parentId": parent, "timestamp": TIME, "message": message}


def text(value: str) -> list[Fields]:
    return [{"type": "text", "text": value}]


QUESTION = entry("q", None, "user", "Why does the test fail?")
ANSWER = entry("a", "q", "assistant", text("The path is wrong."), model="small")


def test_a_session_is_read_with_its_origin(tmp_path: Path) -> None:
    name = {"type": "session_info", "id": "n", "parentId": "a", "timestamp": TIME, "name": "A failing test"}
    path = write_lines(tmp_path / "1_s1.jsonl", [HEADER, QUESTION, ANSWER, name])
    assert dialogues(path) == [EXCHANGE]
    [found] = conversations(path, PiImporter())
    assert (found.app, found.id, found.title, found.time) == ("pi", "s1", "A failing test", 1_785_585_600.5)
    assert (found.turns[1].model, found.turns[1].time) == ("small", 1_785_585_601)


def test_only_the_closing_prose_is_an_answer_and_tools_are_counted(tmp_path: Path) -> None:
    call = {"type": "toolCall", "id": "1", "name": "bash", "arguments": {"command": "secret"}}
    thought = {"type": "thinking", "thinking": "Hm."}
    records = [
        entry("1", "q", "assistant", [thought, *text("I will look."), call]),
        entry("2", "1", "toolResult", text("secret output"), toolCallId="1"),
        entry("3", "2", "bashExecution", "", command="ls", output="secret"),
        {"type": "compaction", "id": "4", "parentId": "3", "timestamp": TIME, "summary": "secret"},
    ]
    path = write_lines(tmp_path / "1_s1.jsonl", [HEADER, QUESTION, *records, {**ANSWER, "parentId": "4"}])
    assert dialogues(path) == [EXCHANGE]
    assert Counter(skipped(path)) == {
        "an assistant turn that calls a tool": 1,
        "the output of a tool of an agent": 1,
        "a text that the agent's program wrote": 2,
    }


def test_the_branch_of_the_last_entry_is_read(tmp_path: Path) -> None:
    left = [entry("x", "a", "user", "Try another"), entry("y", "x", "assistant", text("Done."))]
    right = [entry("v", "a", "user", text("And on Linux?")), entry("z", "v", "assistant", text("There too."))]
    path = write_lines(tmp_path / "1_s1.jsonl", [HEADER, QUESTION, ANSWER, *left, *right])
    assert dialogues(path) == [[*EXCHANGE, ("user", "And on Linux?"), ("assistant", "There too.")]]
    assert skipped(path) == ["a turn that was taken back"] * 2


def test_a_file_of_the_first_version_is_a_sequence(tmp_path: Path) -> None:
    records = [{"type": "message", "timestamp": TIME, "message": item["message"]} for item in (QUESTION, ANSWER)]
    path = write_lines(tmp_path / "1_s1.jsonl", [{**HEADER, "version": 1}, *records])
    assert dialogues(path) == [EXCHANGE]


def test_cycles_duplicate_ids_and_images_are_no_obstacle(tmp_path: Path) -> None:
    image = entry("i", "a", "user", [{"type": "image", "data": ""}])
    records = [{**QUESTION, "parentId": "a"}, {**QUESTION, "message": {}}, ANSWER, image]
    path = write_lines(tmp_path / "1_s1.jsonl", [HEADER, *records])
    assert dialogues(path) == [EXCHANGE]
    assert "a user turn with image only" in skipped(path)
    assert skipped(write_lines(tmp_path / "2_s2.jsonl", [HEADER])) == ["a session without messages"]


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_sessions_never_raise(tmp_path: Path, data: st.DataObject) -> None:
    call = entry("c", "q", "assistant", [{"type": "toolCall"}, *text("x")])
    path = write_lines(tmp_path / "1_s1.jsonl", data.draw(mutated([HEADER, QUESTION, call, ANSWER])))
    try:
        list(read_imports(path, "pi"))
    except UserError as error:
        assert "\n" not in str(error)
