"""Jan: threads with their titles, content parts, unfinished messages, and what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal.errors import UserError
from mlx_personal.importers import ImportedDialogue, read_imports
from mlx_personal.importers.formats.jan import JanImporter
from tests.support.exports import dialogues, mutated, skipped, write_json, write_lines

Fields = dict[str, Any]
TIME = 1_785_585_600
EXCHANGE = [("user", "Which pear keeps?"), ("assistant", "The winter pear.")]


def text(value: str) -> Fields:
    return {"type": "text", "text": {"value": value, "annotations": []}}


def message(key: str, role: str, *parts: Fields, **fields: Any) -> Fields:
    created = TIME + int(key)
    return {
        "id": key,
        "object": "thread.message",
        "thread_id": "t1",
        "role": role,
        "content": list(parts),
        "status": "ready",
        "created_at": created,
        **fields,
    }


QUESTION, ANSWER = message("1", "user", text("Which pear keeps?")), message("2", "assistant", text("The winter pear."))


def write(folder: Path, *messages: Fields, title: Any = "Pears") -> Path:
    write_json(folder / "thread.json", {"id": "t1", "object": "thread", "title": title, "created": TIME})
    write_lines(folder / "messages.jsonl", messages)
    return folder


def test_a_thread_is_read_with_its_origin(tmp_path: Path) -> None:
    path = write(tmp_path, ANSWER, QUESTION)  # older versions wrote the latest message first
    assert dialogues(path) == [EXCHANGE]
    [item] = read_imports(path)
    assert isinstance(item, ImportedDialogue)
    found = item.conversation
    assert (found.app, found.id, found.title, found.time) == ("jan", "t1", "Pears", TIME)


def test_a_single_file_without_its_thread_is_read(tmp_path: Path) -> None:
    assert dialogues(write_lines(tmp_path / "messages.jsonl", [QUESTION, ANSWER])) == [EXCHANGE]


def test_thoughts_are_no_text_and_tool_results_are_context(tmp_path: Path) -> None:
    reasoning = {**text("It keeps."), "type": "reasoning"}
    call = {"type": "tool_call", "tool_name": "find", "input": {}, "output": "pears: winter"}
    answer = message("2", "assistant", reasoning, text("I will look."), call, text("The winter pear."))
    path = write(tmp_path, QUESTION, answer)
    assert dialogues(path) == [[EXCHANGE[0], ("tool", "pears: winter"), EXCHANGE[1]]]
    assert skipped(path) == ["an assistant turn that calls a tool"]


def test_images_errors_and_duplicate_ids_are_left_out_and_counted(tmp_path: Path) -> None:
    image = message("3", "user", {"type": "image_url", "image_url": {"url": "data:"}})
    failed = message("6", "assistant", text("Boskoop is"), status="error")
    apple = message("5", "user", text("And which apple?"))
    path = write(tmp_path, QUESTION, ANSWER, {**ANSWER, "created_at": 0}, image, apple, failed)
    assert dialogues(path) == [EXCHANGE]
    assert skipped(path)[0] == "a message with the id of another one"
    assert {"a user turn with image only", "an empty assistant message"} <= set(skipped(path))


def test_a_damaged_thread_file_and_damaged_dates_are_no_obstacle(tmp_path: Path) -> None:
    write(tmp_path, {**QUESTION, "created_at": None}, {**ANSWER, "created_at": 4_200_000_000})
    (tmp_path / "thread.json").write_text("{")
    assert dialogues(tmp_path) == [EXCHANGE]


@given(data=st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_threads_never_raise(tmp_path: Path, data: st.DataObject) -> None:
    call = message("3", "assistant", {"type": "tool_call", "output": "x"}, text("y"))
    path = write_lines(tmp_path / "messages.jsonl", data.draw(mutated([QUESTION, ANSWER, call])))
    try:
        list(read_imports(path, JanImporter.name))
    except UserError as error:
        assert "\n" not in str(error)
