"""LM Studio: versions, thoughts, tools, files that are being written, and what is left out."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal.errors import UserError
from mlx_personal.importers import read_imports
from mlx_personal.importers.formats import lm_studio
from mlx_personal.importers.formats.lm_studio import LMStudioImporter
from tests.support.exports import conversations, dialogues, mutated, skipped, write_json

Fields = dict[str, Any]
NAME = "1736789912980.conversation.json"
EXCHANGE = [("user", "Which pear keeps?"), ("assistant", "The winter pear.")]


def text(value: str) -> Fields:
    return {"type": "text", "text": value}


def block(value: str, **fields: Any) -> Fields:
    return {"type": "contentBlock", "content": [text(value)], **fields}


def user(*versions: Any, selected: Any = 0) -> Fields:
    contents = [{"type": "singleStep", "role": "user", "content": content} for content in versions]
    return {"versions": contents, "currentlySelected": selected}


def assistant(*versions: list[Fields], selected: Any = 0) -> Fields:
    sender = {"senderName": "small"}
    contents = [{"type": "multiStep", "role": "assistant", "senderInfo": sender, "steps": steps} for steps in versions]
    return {"versions": contents, "currentlySelected": selected}


def conversation(*messages: Fields, **fields: Any) -> Fields:
    return {"name": "Pears", "createdAt": 1736789912980, "systemPrompt": "", "messages": list(messages), **fields}


QUESTION, ANSWER = user([text("Which pear keeps?")]), assistant([block("The winter pear.")])


@pytest.mark.parametrize("indent", [None, 1])
def test_a_conversation_is_read_with_its_origin(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / NAME
    path.write_text(json.dumps(conversation(QUESTION, ANSWER, systemPrompt="Be brief."), indent=indent))
    assert dialogues(path) == [[("system", "Be brief."), *EXCHANGE]]
    [found] = conversations(path, LMStudioImporter())
    assert (found.app, found.id, found.title) == ("lm-studio", "1736789912980", "Pears")
    assert found.time == pytest.approx(1736789912.98)
    assert found.turns[2].model == "small"


def test_the_selected_version_is_read_and_the_others_are_alternatives(tmp_path: Path) -> None:
    question = user([text("Which pear?")], [text("Which pear keeps?")], selected=1)
    answer = assistant([block("Any pear.")], [block("The winter pear.")], [block(" ")], selected=1)
    path = write_json(tmp_path / NAME, conversation(question, answer))
    assert dialogues(path) == [EXCHANGE]
    [found] = conversations(path, LMStudioImporter())
    assert [turn.is_edit for turn in found.turns] == [True, False]
    assert [(other.text, other.reason) for other in found.turns[1].alternatives] == [("Any pear.", "regenerated")]


@pytest.mark.parametrize("selected", [None, 7, -1, "1", 1.0])
def test_without_a_selection_the_last_version_is_read(tmp_path: Path, selected: Any) -> None:
    answer = assistant([block("Any pear.")], [block("The winter pear.")], selected=selected)
    assert dialogues(write_json(tmp_path / NAME, conversation(QUESTION, answer))) == [EXCHANGE]


def test_thoughts_and_debug_blocks_are_no_text(tmp_path: Path) -> None:
    thought = block("Which one keeps?", style={"type": "thinking"})
    tag = {"type": "contentBlock", "content": [{**text("</think>"), "isStructural": True}]}
    answer = assistant([thought, tag, block("The winter pear."), {"type": "debugInfoBlock", "debugInfo": "x"}])
    assert dialogues(write_json(tmp_path / NAME, conversation(QUESTION, answer))) == [EXCHANGE]


def test_text_before_a_tool_is_no_answer_and_its_result_is_context(tmp_path: Path) -> None:
    result = {"type": "contentBlock", "content": [{"type": "toolCallResult", "content": "pears: winter"}]}
    steps = [block("I will look."), {"type": "toolStatus", "statusState": {}}, result, block("The winter pear.")]
    path = write_json(tmp_path / NAME, conversation(QUESTION, assistant(steps)))
    assert dialogues(path) == [[EXCHANGE[0], ("tool", "pears: winter"), EXCHANGE[1]]]
    assert skipped(path) == ["an assistant turn that calls a tool"]


def test_null_numbers_and_a_damaged_date_are_no_obstacle(tmp_path: Path) -> None:
    for created in (None, 0, 4_200_000_000_000):
        path = write_json(tmp_path / NAME, conversation(QUESTION, ANSWER, createdAt=created, tokenCount=None))
        assert dialogues(path) == [EXCHANGE]
        assert conversations(path, LMStudioImporter())[0].time is None


def test_images_and_empty_conversations_are_left_out_and_counted(tmp_path: Path) -> None:
    image = user([{"type": "file", "name": "pear.png", "fileType": "image"}])
    path = write_json(tmp_path / NAME, conversation(image, ANSWER, QUESTION, ANSWER))
    assert dialogues(path) == [EXCHANGE]
    assert "a user turn with image only" in skipped(path)
    assert skipped(write_json(tmp_path / NAME, conversation())) == ["a conversation without messages"]


@pytest.mark.parametrize("length", [0, 9, 200])
def test_a_file_that_stays_cut_off_is_left_out(tmp_path: Path, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_studio, "RETRY_SECONDS", 0)
    path = tmp_path / NAME
    path.write_text(json.dumps(conversation(QUESTION, ANSWER))[:length])
    assert skipped(path) == ["the end of the file is missing"]


def test_a_file_that_is_being_written_is_read_again(tmp_path: Path) -> None:
    path, whole = tmp_path / NAME, json.dumps(conversation(QUESTION, ANSWER))
    path.write_text(whole[:100])

    def finish() -> None:
        time.sleep(lm_studio.RETRY_SECONDS / 2)
        path.write_text(whole)

    writer = threading.Thread(target=finish)
    writer.start()
    try:
        assert dialogues(path) == [EXCHANGE]
    finally:
        writer.join()


def test_a_folder_is_read_by_the_names_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    write_json(tmp_path / "work" / NAME, conversation(QUESTION, ANSWER))
    write_json(tmp_path / "2.conversation.json", conversation(QUESTION, ANSWER))
    assert dialogues(tmp_path) == [EXCHANGE, EXCHANGE]


@given(data=st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_conversations_never_raise(tmp_path: Path, data: st.DataObject) -> None:
    tool = {"type": "contentBlock", "content": [{"type": "toolCallResult", "content": "x"}]}
    steps = [block("a"), {"type": "toolStatus"}, tool, block("b", style={"type": "thinking"}), block("c")]
    whole = conversation(QUESTION, assistant(steps, [block("d")]))
    path = write_json(tmp_path / NAME, data.draw(mutated(whole)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_studio, "RETRY_SECONDS", 0)
        try:
            assert list(read_imports(path, "lm-studio"))
        except UserError as error:
            assert "\n" not in str(error)
