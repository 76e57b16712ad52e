"""Exports of Le Chat: the order of messages, chunks, and what is left out."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

from mlx_personal.errors import UserError
from mlx_personal.importers import Conversation, read_imports
from mlx_personal.importers.formats.mistral import MistralImporter
from tests.support.exports import conversations, dialogues, mutated, skipped, write_json

QUESTION, ANSWER = "When do I sow peas?", "In March, under fleece."
EXCHANGE = [("user", QUESTION), ("assistant", ANSWER)]
START = 1762300800.0  # 2025-11-05


def message(role: str, content: str, number: int, chunks: Any = None, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"m{number}",
        "version": 0,
        "chatId": "c1",
        "content": content,
        "contentChunks": chunks,
        "role": role,
        "createdAt": f"2025-11-05T00:00:0{number}.000Z",
        "reaction": "neutral",
        "preference": None,
        "canvas": [],
        "quotes": [],
        "files": [],
        **fields,
    }


def text_chunk(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


CALL = {"type": "tool_call", "name": "web_search", "publicArguments": "peas", "isDone": True}
PEAS = [message("assistant", ANSWER, 2), message("user", QUESTION, 1)]


def read(path: Path) -> list[Conversation]:
    return conversations(path, MistralImporter())


def test_chats_are_read_in_the_order_of_time(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "chat-export.zip", "w") as archive:
        archive.writestr("chat-c1.json", json.dumps(PEAS))
        archive.writestr("chat-c1-files/peas.png", b"\x89PNG")
    assert dialogues(tmp_path / "chat-export.zip") == [EXCHANGE]
    (found,) = read(write_json(tmp_path / "chat-c1.json", PEAS))
    assert (found.app, found.id, found.time) == ("mistral", "c1", START + 1)


def test_chunks_are_pieces_of_the_answer_after_the_last_tool(tmp_path: Path) -> None:
    reference = {"type": "reference", "referenceIds": [1, 2]}
    chunks = [text_chunk("I will look."), CALL, text_chunk("In March"), reference, text_chunk(", under fleece.")]
    path = write_json(
        tmp_path / "chat-c1.json", [message("user", QUESTION, 1), message("assistant", "I will look...", 2, chunks)]
    )
    assert dialogues(path) == [EXCHANGE]
    assert skipped(path) == ["an assistant turn that calls a tool"]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    files = [{"type": "image", "name": "a.png"}, {"type": "document", "name": "b.pdf"}]
    path = write_json(
        tmp_path / "chat-c1.json",
        [
            *PEAS,
            message("user", "And beans?", 3),
            message("assistant", "I will look.", 4, [text_chunk("I will look."), CALL]),
            message("user", "", 5, files=files),
            "damaged",
        ],
    )
    assert dialogues(path) == [EXCHANGE]
    assert skipped(path)[:3] == [
        "an assistant turn that calls a tool",
        "a user turn with file and image only",
        "a question without an answer",
    ]


def test_the_latest_version_of_a_message_is_read(tmp_path: Path) -> None:
    versions = [message("assistant", ANSWER, 2, version=1), message("assistant", "In winter.", 2)]
    assert dialogues(write_json(tmp_path / "chat-c1.json", [*versions, message("user", QUESTION, 1)])) == [EXCHANGE]


SEED = [message("user", QUESTION, 1), message("assistant", ANSWER, 2, [text_chunk("a"), CALL, text_chunk("b")])]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=mutated(SEED))
def test_a_damaged_chat_never_raises_another_error(value: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        try:
            found = list(read_imports(write_json(Path(name) / "chat-c1.json", value), "mistral"))
        except UserError:
            return
        assert found or not value
