"""llama.cpp's web page and the STS-Format: sessions a file, branches, tools, and older exports."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal.errors import UserError
from mlx_personal.importers import read_imports
from mlx_personal.importers.formats.llama_cpp import LlamaCppImporter
from tests.support.exports import conversations, dialogues, mutated, skipped, write_json, write_lines

Fields = dict[str, Any]
TIME = 1_785_585_600_000
EXCHANGE = [("user", "Which pear keeps?"), ("assistant", "The winter pear.")]


def session(current: str | None = "a", key: str = "s1", harness: str = "llama.app") -> Fields:
    return {"type": "session", "harness": harness, "id": key, "name": "Pears", "currNode": current}


def node(key: str, parent: str | None, role: str, content: str, **fields: Any) -> Fields:
    time = TIME + 1000 * len(key)
    return {"id": key, "convId": "s1", "role": role, "content": content, "parent": parent, "timestamp": time, **fields}


def lines(*messages: Fields) -> list[Fields]:
    return [{"type": "message", "message": message} for message in messages]


ROOT = node("r", None, "system", "", type="root")
QUESTION = node("q", "r", "user", "Which pear keeps?", type="text")
ANSWER = node("a", "q", "assistant", "The winter pear.", type="text", model="small", reasoningContent="It keeps.")


def test_a_session_is_read_with_its_origin(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "chat.jsonl", [session(), *lines(ROOT, QUESTION, ANSWER)])
    assert dialogues(path) == [EXCHANGE]
    [found] = conversations(path, LlamaCppImporter())
    assert (found.app, found.id, found.title, found.time) == ("llama.cpp", "s1", "Pears", TIME / 1000 + 1)
    assert found.turns[1].model == "small"


def test_the_branch_that_the_page_shows_is_read_to_its_end(tmp_path: Path) -> None:
    other = node("b", "q", "assistant", "Any pear.")
    later = [node("qq", "a", "user", "And which apple?"), node("aa", "qq", "assistant", "Boskoop.")]
    path = write_lines(tmp_path / "chat.jsonl", [session("a"), *lines(ROOT, QUESTION, other, ANSWER, *later)])
    assert dialogues(path) == [[*EXCHANGE, ("user", "And which apple?"), ("assistant", "Boskoop.")]]
    [found] = conversations(path, LlamaCppImporter())
    assert [other.text for other in found.turns[1].alternatives] == ["Any pear."]


def test_without_a_current_message_the_latest_branch_is_read(tmp_path: Path) -> None:
    later = node("latest", "q", "assistant", "Conference.")
    for current in ("", "lost", None):
        path = write_lines(tmp_path / "chat.jsonl", [session(current), *lines(QUESTION, later, ANSWER)])
        assert dialogues(path) == [[EXCHANGE[0], ("assistant", "Conference.")]]


def test_tools_are_context_and_files_are_counted(tmp_path: Path) -> None:
    call = node("c", "q", "assistant", "I will look.", toolCalls=[{"id": "1", "function": {"name": "find"}}])
    result = node("t", "c", "tool", "pears: winter", toolCallId="1")
    image = node("i", "a", "user", "", extra=[{"type": "IMAGE", "base64Url": "data:"}])
    nodes = (QUESTION, call, result, {**ANSWER, "parent": "t"}, image, node("z", "i", "assistant", "A pear."))
    path = write_lines(tmp_path / "chat.jsonl", [session("z"), *lines(*nodes)])
    assert dialogues(path) == [[EXCHANGE[0], ("tool", "pears: winter"), EXCHANGE[1]]]
    assert "a user turn with image only" in skipped(path)


def test_sessions_of_other_programs_are_a_sequence(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Which pear keeps?"}, {"role": "assistant", "content": "The winter pear."}]
    values = [session(key="s1", harness="my-agent"), *lines(*messages), session(key="s2", harness="x y")]
    path = write_lines(tmp_path / "trace.jsonl", [*values, *lines(*messages), session(key="s3")])
    assert dialogues(path) == [EXCHANGE, EXCHANGE]
    assert [(found.app, found.id) for found in conversations(path, LlamaCppImporter())] == [
        ("my-agent", "s1"),
        ("llama.cpp", "s2"),
    ]
    assert skipped(path) == ["a conversation without messages"]


def test_older_exports_and_zips_of_several_sessions_are_read(tmp_path: Path) -> None:
    old = {"conv": {"id": "s1", "name": "Pears", "currNode": "a"}, "messages": [ROOT, QUESTION, ANSWER]}
    assert dialogues(write_json(tmp_path / "one.json", old)) == [EXCHANGE]
    assert dialogues(write_json(tmp_path / "two.json", [old, old])) == [EXCHANGE] * 2
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("1.jsonl", "2.jsonl"):
            text = "\n".join(json.dumps(value) for value in [session(), *lines(QUESTION, ANSWER)])
            archive.writestr(name, text)
    assert dialogues(path) == [EXCHANGE] * 2


def test_damaged_lines_and_duplicate_ids_are_left_out(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "chat.jsonl", [session(), *lines(QUESTION, {**QUESTION, "content": "?"}, ANSWER)])
    path.write_text('{"type": "session", "harness": "x"}\n{"type": "mess\n[]\n' + path.read_text())
    assert dialogues(path) == [EXCHANGE]
    assert skipped(path) == [
        "not JSON (unterminated string starting at)",
        "a message without a session",
        "a conversation without messages",
    ]


@given(data=st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_sessions_never_raise(tmp_path: Path, data: st.DataObject) -> None:
    call = node("c", "q", "assistant", "x", toolCalls=[{}], extra=[{"type": "IMAGE"}])
    path = write_lines(
        tmp_path / "chat.jsonl", data.draw(mutated([session(), *lines(ROOT, QUESTION, call, ANSWER), session()]))
    )
    try:
        list(read_imports(path, "llama-cpp"))
    except UserError as error:
        assert "\n" not in str(error)
