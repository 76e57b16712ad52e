"""Claude exports: text and content, tools, attachments, branches, and what is left out."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from mlx_personal.errors import UserError
from mlx_personal.importers import Conversation, Skipped, Turn, read_imports
from mlx_personal.importers.conversation import Alternative
from mlx_personal.importers.formats.claude import MAX_ATTACHMENT_CHARS, ClaudeImporter
from tests.support.exports import conversations, dialogues, mutated, skipped, write_json

QUESTION, ANSWER = "When do I sow peas?", "In March, under fleece."
EXCHANGE = [("user", QUESTION), ("assistant", ANSWER)]
ROOT = "00000000-0000-4000-8000-000000000000"
START = 1735689600.0  # 2025-01-01


def text_block(text: str) -> dict[str, Any]:
    return {"start_timestamp": "2025-01-01T00:00:01Z", "type": "text", "text": text, "citations": []}


def message(sender: str, said: Any, number: int, **fields: Any) -> dict[str, Any]:
    """Return a message with a text or with blocks."""
    return {
        "uuid": f"m{number}",
        "text": said if isinstance(said, str) else "",
        "content": [text_block(said)] if isinstance(said, str) else said,
        "sender": sender,
        "created_at": f"2025-01-01T00:00:0{number}.000000Z",
        "updated_at": f"2025-01-01T00:00:0{number}.000000Z",
        "attachments": [],
        "files": [],
        **fields,
    }


def conversation(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "uuid": "c1",
        "name": "Peas",
        "created_at": "2025-01-01T00:00:00Z",
        "updated_at": "2025-01-01T00:00:09Z",
        "account": {"uuid": "a1"},
        "chat_messages": list(messages),
        **fields,
    }


CHAT = conversation(message("human", QUESTION, 1), message("assistant", ANSWER, 2))


def read(path: Path) -> list[Conversation]:
    return conversations(path, ClaudeImporter())


def turns(tmp_path: Path, *messages: dict[str, Any], **fields: Any) -> list[Turn]:
    (found,) = read(write_json(tmp_path / "conversations.json", [conversation(*messages, **fields)]))
    return list(found.turns)


def test_an_export_is_read_with_where_it_comes_from(tmp_path: Path) -> None:
    path = write_json(tmp_path / "conversations.json", [CHAT])
    assert dialogues(path) == [EXCHANGE]
    (found,) = read(path)
    assert (found.app, found.id, found.title, found.time) == ("claude", "c1", "Peas", START)
    assert [turn.time for turn in found.turns] == [START + 1, START + 2]


@pytest.mark.parametrize("value", [[CHAT], {"conversations": [CHAT]}, CHAT], ids=["list", "wrapped", "one a file"])
def test_every_form_of_the_file_is_read(tmp_path: Path, value: Any) -> None:
    assert dialogues(write_json(tmp_path / "a.json", value)) == [EXCHANGE]


def test_a_zip_is_read_without_the_account(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "claude.zip", "w") as archive:
        archive.writestr("conversations.json", json.dumps([CHAT]))
        archive.writestr("users.json", json.dumps([{"uuid": "a1", "full_name": "Nora"}]))
        archive.writestr("projects.json", json.dumps([{"uuid": "p1", "name": "Garden", "docs": []}]))
        archive.writestr("memories.json", json.dumps([{"conversations_memory": "Nora has a garden."}]))
    assert dialogues(tmp_path / "claude.zip") == [EXCHANGE]
    assert skipped(tmp_path / "claude.zip") == []


def test_text_or_content_may_be_missing(tmp_path: Path) -> None:
    found = turns(
        tmp_path,
        message("human", QUESTION, 1, content=[]),
        message("assistant", ANSWER, 2, content=None),
        message("human", "And beans?", 3, text=""),
        message("assistant", "In May.", 4, content=[text_block("")]),
    )
    assert [turn.text for turn in found] == [QUESTION, ANSWER, "And beans?", "In May."]


def test_thoughts_are_not_read(tmp_path: Path) -> None:
    thoughts = {"type": "thinking", "thinking": "Peas are hardy.", "summaries": []}
    found = turns(
        tmp_path,
        message("human", QUESTION, 1),
        message("assistant", [thoughts, text_block(ANSWER)], 2, text=f"Peas are hardy.{ANSWER}"),
        message("human", "And beans?", 3),
        message("assistant", [thoughts], 4, text="Peas are hardy."),
    )
    assert [turn.text for turn in found] == [QUESTION, ANSWER, "And beans?", ""]


def test_the_text_before_a_tool_is_no_answer_and_its_result_is_context(tmp_path: Path) -> None:
    blocks = [
        text_block("I will look."),
        {"type": "tool_use", "name": "web_search", "input": {"query": "peas"}},
        {"type": "tool_result", "content": [{"type": "text", "text": "Peas: March", "uuid": "t1"}]},
        text_block("One more search."),
        {"type": "tool_use", "name": "artifacts", "input": {"content": "# Peas"}},
        {"type": "tool_result", "content": []},
        text_block(ANSWER),
        text_block("Good luck!"),
    ]
    path = write_json(
        tmp_path / "a.json", [conversation(message("human", QUESTION, 1), message("assistant", blocks, 2))]
    )
    answer = ("assistant", f"{ANSWER}\n\nGood luck!")
    assert dialogues(path) == [[EXCHANGE[0], ("tool", "Peas: March"), answer]]
    assert skipped(path) == ["an assistant turn that calls a tool"] * 2


def test_an_answer_that_ends_with_a_tool_is_left_out(tmp_path: Path) -> None:
    blocks = [text_block("Here it is."), {"type": "tool_use", "name": "artifacts", "input": {}}]
    path = write_json(
        tmp_path / "a.json", [conversation(message("human", QUESTION, 1), message("assistant", blocks, 2))]
    )
    assert skipped(path) == ["an assistant turn that calls a tool"]


def test_remarks_on_tools_in_an_old_export_are_removed(tmp_path: Path) -> None:
    remark = "```\nThis block is not supported on your current device yet.\n```\n\n"
    found = turns(tmp_path, message("human", QUESTION, 1), message("assistant", remark + ANSWER, 2, content=[]))
    assert found[1].text == ANSWER


def test_short_attached_texts_belong_to_the_question_and_others_are_counted(tmp_path: Path) -> None:
    short = {"file_name": "", "file_type": "txt", "extracted_content": "Peas, beans."}
    long = {"file_name": "book.txt", "extracted_content": "x" * (MAX_ATTACHMENT_CHARS + 1)}
    files = [{"file_name": "peas.png"}, {"file_name": "beans.png"}]
    question, pasted = turns(
        tmp_path,
        message("human", "Which first?", 1, attachments=[short, long, None], files=files),
        message("human", "", 2, attachments=[short]),
    )
    assert (question.text, question.left_out) == ("Which first?\n\nPeas, beans.", {"attachment": 2, "file": 2})
    assert (pasted.text, pasted.left_out) == ("Peas, beans.", {})


def test_branches_are_alternatives_and_edits(tmp_path: Path) -> None:
    messages = [
        message("human", "Peas?", 1, parent_message_uuid=ROOT),
        message("assistant", "A vegetable.", 2, parent_message_uuid="m1"),
        message("human", QUESTION, 3, parent_message_uuid=ROOT),
        message("assistant", "In winter.", 4, parent_message_uuid="m3"),
        message("assistant", ANSWER, 5, parent_message_uuid="m3"),
    ]
    question, answer = turns(tmp_path, *messages)
    assert (question.text, question.is_edit) == (QUESTION, True)
    assert (answer.text, answer.alternatives) == (ANSWER, (Alternative("In winter.", "regenerated"),))
    question, answer = turns(tmp_path, *messages, current_leaf_message_uuid="m2")
    assert (question.is_edit, answer.text, answer.alternatives) == (False, "A vegetable.", ())


def test_conversations_without_a_dialogue_are_counted(tmp_path: Path) -> None:
    values = [
        conversation(),
        conversation(message("human", "", 1), message("assistant", "", 2)),
        conversation(message("human", QUESTION, 1)),
        {**CHAT, "is_temporary": True},
        CHAT,
    ]
    path = write_json(tmp_path / "a.json", values[::-1])
    assert dialogues(path) == [EXCHANGE]
    assert skipped(path) == [
        "a temporary chat",
        "a question without an answer",
        "a conversation without text",
        "a conversation without messages",
    ]


SEED = [
    conversation(
        message("human", QUESTION, 1, parent_message_uuid=ROOT, attachments=[{"extracted_content": "Peas"}]),
        message("assistant", "In winter.", 2, parent_message_uuid="m1"),
        message(
            "assistant",
            [
                {"type": "thinking", "thinking": "Hm"},
                {"type": "tool_use", "name": "a", "input": {}},
                {"type": "tool_result", "content": [{"type": "text", "text": "b"}]},
                text_block(ANSWER),
            ],
            3,
            parent_message_uuid="m1",
        ),
    ),
    CHAT,
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=mutated(SEED))
def test_a_damaged_export_never_raises_another_error(value: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        try:
            found = list(read_imports(write_json(Path(name) / "conversations.json", value), "claude"))
        except UserError:
            return
        assert found or not value
        assert not any(isinstance(item, Skipped) and len(item.reason.splitlines()) != 1 for item in found)
