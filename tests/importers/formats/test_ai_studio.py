"""Prompts of Google AI Studio: thoughts, instructions, files, code, and what is left out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

from mlx_personal.errors import UserError
from mlx_personal.importers import Conversation, read_imports
from mlx_personal.importers.formats.ai_studio import AIStudioImporter
from tests.support.exports import conversations, dialogues, mutated, skipped, write_json

QUESTION, ANSWER = "When do I sow peas?", "In March, under fleece."
EXCHANGE = [("user", QUESTION), ("assistant", ANSWER)]


def chunk(role: str, text: str = "", **fields: Any) -> dict[str, Any]:
    return {"role": role, "text": text, "tokenCount": 7, **fields}


def prompt(*chunks: Any, instruction: Any = None) -> dict[str, Any]:
    return {
        "runSettings": {"temperature": 1.0, "model": "models/gemini-3-pro-preview"},
        "systemInstruction": instruction or {},
        "chunkedPrompt": {"chunks": list(chunks), "pendingInputs": [{"text": "not sent", "role": "user"}]},
    }


def read(path: Path) -> list[Conversation]:
    return conversations(path, AIStudioImporter())


def test_a_prompt_is_read_with_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "Google AI Studio").mkdir()
    time = "2025-11-05T00:00:00.000Z"
    value = prompt(chunk("user", QUESTION, createTime=time), chunk("model", ANSWER, finishReason="STOP"))
    path = write_json(tmp_path / "Google AI Studio" / "Peas", value)
    assert dialogues(tmp_path) == [EXCHANGE]
    (found,) = read(path)
    assert (found.app, found.id, found.title, found.time) == ("ai-studio", "", "Peas", 1762300800.0)
    assert [turn.model for turn in found.turns] == ["", "gemini-3-pro-preview"]


def test_thoughts_are_not_read_and_parts_are_joined(tmp_path: Path) -> None:
    parts = [{"text": "Peas are hardy.", "thought": True}, {"text": "In March, "}, {"text": "under fleece."}]
    value = prompt(
        chunk("user", QUESTION),
        chunk("model", "Peas are hardy.", isThought=True),
        chunk("model", "", parts=parts),
    )
    path = write_json(tmp_path / "peas.json", value)
    assert dialogues(path) == [EXCHANGE]
    assert skipped(path) == []


def test_the_instruction_is_the_system_turn(tmp_path: Path) -> None:
    for instruction in ({"text": "Be brief."}, {"parts": [{"text": "Be brief."}]}):
        value = prompt(chunk("user", QUESTION), chunk("model", ANSWER), instruction=instruction)
        assert dialogues(write_json(tmp_path / "peas.json", value)) == [[("system", "Be brief."), *EXCHANGE]]


def test_files_code_and_errors_are_counted(tmp_path: Path) -> None:
    value = prompt(
        chunk("user", QUESTION),
        chunk("model", executableCode={"language": "PYTHON", "code": "print(3)"}),
        chunk("model", codeExecutionResult={"outcome": "OUTCOME_OK", "output": "3"}),
        chunk("model", ANSWER),
        chunk("user", driveImage={"id": "1"}),
        chunk("model", "A pea."),
        chunk("user", "And beans?"),
        chunk("model", errorMessage="An internal error has occurred."),
        chunk("unknown", "x"),
        "damaged",
    )
    path = write_json(tmp_path / "peas.json", value)
    assert dialogues(path) == [[EXCHANGE[0], ("tool", "3"), EXCHANGE[1]]]
    assert skipped(path) == [
        "an assistant turn that calls a tool",
        "a user turn with image only",
        "an answer to a question that is left out",
        "an empty assistant message",
        "a question without an answer",
    ]
    assert skipped(write_json(tmp_path / "peas.json", prompt())) == ["a conversation without messages"]


SEED = prompt(
    chunk("user", QUESTION, driveDocument={"id": "1"}),
    chunk("model", "Hm.", isThought=True, parts=[{"text": "Hm.", "thought": True}]),
    chunk("model", codeExecutionResult={"output": "3"}),
    chunk("model", ANSWER, createTime="2025-11-05T00:00:00Z"),
    instruction={"parts": [{"text": "Be brief."}]},
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=mutated(SEED))
def test_a_damaged_prompt_never_raises_another_error(value: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        try:
            assert list(read_imports(write_json(Path(name) / "peas.json", value), "ai-studio"))
        except UserError:
            return
