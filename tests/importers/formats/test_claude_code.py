"""Claude Code: what the person typed and the closing prose, without what the program, tools and sub-agents wrote."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal.errors import UserError
from mlx_personal.importers import read_imports
from mlx_personal.importers.formats.agent_session import MAX_PASTE_CHARS
from mlx_personal.importers.formats.claude_code import ClaudeCodeImporter
from tests.support.exports import conversations, dialogues, mutated, skipped, write_lines

Fields = dict[str, Any]
TIME = "2026-08-01T12:00:00.500Z"
EXCHANGE = [("user", "Why does the test fail?"), ("assistant", "The path is wrong.")]


def record(key: str, parent: str | None, kind: str, content: Any, **fields: Any) -> Fields:
    message = {"role": kind, "content": content, **({"model": "small"} if kind == "assistant" else {})}
    return {
        "type": kind,
        "uuid": key,
        "parentUuid": parent,
        "sessionId": "s1",
        "isSidechain": False,
        "timestamp": TIME,
        "message": message,
        **fields,
    }


def text(value: str) -> list[Fields]:
    return [{"type": "text", "text": value}]


QUESTION = record("q", None, "user", "Why does the test fail?")
ANSWER = record("a", "q", "assistant", text("The path is wrong."))
USE = [{"type": "tool_use", "id": "1", "name": "Edit", "input": {"new_string": "secret"}}]
RESULT = [{"type": "tool_result", "tool_use_id": "1", "content": "secret output"}]


def test_a_session_is_read_with_its_origin(tmp_path: Path) -> None:
    summary = {"type": "summary", "summary": "A failing test", "leafUuid": "a"}
    snapshot = {"type": "file-history-snapshot", "messageId": "q", "snapshot": {}}
    path = write_lines(tmp_path / "s1.jsonl", [summary, snapshot, QUESTION, ANSWER])
    assert dialogues(path) == [EXCHANGE]
    [found] = conversations(path, ClaudeCodeImporter())
    assert (found.app, found.id, found.title, found.time) == ("claude-code", "s1", "A failing test", 1_785_585_600.5)
    assert found.turns[1].model == "small"


def test_the_title_of_the_person_is_preferred_to_that_of_the_program(tmp_path: Path) -> None:
    titles = [{"type": "ai-title", "aiTitle": "A test"}, {"type": "custom-title", "customTitle": "My test"}]
    for records, title in ((titles[:1], "A test"), (titles[::-1], "My test")):
        path = write_lines(tmp_path / "s1.jsonl", [QUESTION, ANSWER, *records])
        assert conversations(path, ClaudeCodeImporter())[0].title == title


def test_only_the_closing_prose_is_an_answer_and_tools_are_counted(tmp_path: Path) -> None:
    records = [
        QUESTION,
        record("1", "q", "assistant", [{"type": "thinking", "thinking": "Hm."}]),
        record("2", "1", "assistant", text("I will look.")),
        record("3", "2", "assistant", USE),
        record("4", "3", "user", RESULT, toolUseResult={"stdout": "secret output"}),
        record("4b", "4", "assistant", USE),
        record("5", "4b", "assistant", text("The path is wrong.")),
        record("6", "5", "assistant", text("I changed it.")),
    ]
    path = write_lines(tmp_path / "s1.jsonl", records)
    assert dialogues(path) == [[EXCHANGE[0], ("assistant", "The path is wrong.\n\nI changed it.")]]
    assert Counter(skipped(path)) == {
        "an assistant turn that calls a tool": 1,
        "a call of a tool without a text before it": 1,
        "the output of a tool of an agent": 1,
    }


@pytest.mark.parametrize(
    "injected",
    [
        record("x", "a", "user", "Base directory for this skill", isMeta=True),
        record("x", "a", "user", "A summary", isCompactSummary=True, isVisibleInTranscriptOnly=True),
        record("x", "a", "user", "<local-command-stdout>done</local-command-stdout>"),
        record("x", "a", "user", text("[Request interrupted by user]")),
        record("x", "a", "user", text("<system-reminder>Be careful.</system-reminder>")),
        record("x", "a", "user", "This session is being continued from a previous conversation that ran out"),
    ],
)
def test_what_the_program_wrote_is_left_out_and_counted(tmp_path: Path, injected: Fields) -> None:
    path = write_lines(tmp_path / "s1.jsonl", [QUESTION, injected, ANSWER])
    assert dialogues(path) == [EXCHANGE]
    assert skipped(path) == ["a text that the agent's program wrote"]


@pytest.mark.parametrize(
    "command",
    [
        record("x", "a", "user", "<command-name>/review</command-name>\n<command-args>all</command-args>"),
        record("x", "a", "user", "<bash-input>ls</bash-input>"),
        record("x", "a", "user", "A task has ended.", origin={"kind": "task-notification"}),
    ],
)
def test_the_answer_to_a_command_is_none_to_the_question_before(tmp_path: Path, command: Fields) -> None:
    replies = [record("y", "x", "assistant", USE), record("z", "y", "assistant", text("Reviewed."))]
    path = write_lines(tmp_path / "s1.jsonl", [QUESTION, ANSWER, command, *replies])
    assert dialogues(path) == [EXCHANGE]
    assert "an answer to a command of the agent's program" in skipped(path)


def queued(prompt: Any, **fields: Any) -> Fields:
    attachment = {"type": "queued_command", "prompt": prompt, **fields}
    return {**record("x", "1", "attachment", None), "attachment": attachment}


@pytest.mark.parametrize(
    "prompt",
    [
        queued("And on Linux?"),
        queued("And on Linux?", commandMode="prompt", origin={"kind": "human"}),
        queued(text("And on Linux?<system-reminder>Be careful.</system-reminder>")),
    ],
)
def test_what_is_typed_while_the_agent_works_is_a_question(tmp_path: Path, prompt: Fields) -> None:
    call, last = record("1", "a", "assistant", USE), record("z", "x", "assistant", text("There too."))
    path = write_lines(tmp_path / "s1.jsonl", [QUESTION, ANSWER, record("w", "a", "user", "Look"), call, prompt, last])
    assert dialogues(path) == [[*EXCHANGE, ("user", "Look\n\nAnd on Linux?"), ("assistant", "There too.")]]


@pytest.mark.parametrize(
    "attachment",
    [
        queued("A task has ended.", commandMode="task-notification"),
        queued("A task has ended.", commandMode="prompt", origin={"kind": "task-notification"}),
        queued("ls", commandMode="bash"),
        queued("Be careful.", isMeta=True),
    ],
)
def test_what_the_program_queues_is_left_out_and_the_question_is_answered(tmp_path: Path, attachment: Fields) -> None:
    path = write_lines(tmp_path / "s1.jsonl", [QUESTION, record("1", "q", "assistant", USE), attachment, ANSWER])
    assert dialogues(path) == [EXCHANGE]
    assert "a text that the agent's program wrote" in skipped(path)


def test_other_attachments_are_not_read(tmp_path: Path) -> None:
    attachment = {**record("x", "q", "attachment", None), "attachment": {"type": "file", "prompt": "secret"}}
    path = write_lines(tmp_path / "s1.jsonl", [QUESTION, attachment, ANSWER])
    assert dialogues(path) == [EXCHANGE] and skipped(path) == []


def test_reminders_and_open_files_are_cut_from_what_the_person_typed(tmp_path: Path) -> None:
    opened = "<ide_opened_file>The user opened x.py</ide_opened_file>"
    content = [*text(opened), *text("Why does the test fail?<system-reminder>Be careful.</system-reminder>")]
    path = write_lines(tmp_path / "s1.jsonl", [record("q", None, "user", content), ANSWER])
    assert dialogues(path) == [EXCHANGE]


def test_sub_agents_are_left_out_and_counted(tmp_path: Path) -> None:
    side = [record("x", None, "user", "Search.", isSidechain=True), record("y", "x", "assistant", [], isSidechain=True)]
    path = write_lines(tmp_path / "s1.jsonl", [QUESTION, *side, ANSWER])
    assert dialogues(path) == [EXCHANGE]
    assert skipped(path) == ["a message of a sub-agent"] * 2
    path = write_lines(tmp_path / "agent-1.jsonl", side)
    assert dialogues(path) == []
    assert "a session without messages" in skipped(path)


def test_turns_that_were_taken_back_are_left_out(tmp_path: Path) -> None:
    wrong, reply = record("w", "a", "user", "Try another"), record("x", "w", "assistant", text("Done."))
    again = [record("v", "a", "user", "And on Linux?"), record("z", "v", "assistant", text("There too."))]
    path = write_lines(tmp_path / "s1.jsonl", [QUESTION, ANSWER, wrong, reply, *again])
    assert dialogues(path) == [[*EXCHANGE, ("user", "And on Linux?"), ("assistant", "There too.")]]
    assert skipped(path) == ["a turn that was taken back"] * 2


def test_a_long_paste_keeps_its_beginning_and_end(tmp_path: Path) -> None:
    question = record("q", None, "user", "Look: " + "x" * 50_000 + " why?")
    path = write_lines(tmp_path / "s1.jsonl", [question, ANSWER])
    [[(_, pasted), _]] = dialogues(path)
    assert pasted.startswith("Look: xx") and pasted.endswith("xx why?") and len(pasted) < MAX_PASTE_CHARS + 10
    assert skipped(path) == ["a pasted text of over 10,000 characters, shortened"]


def test_errors_images_and_damaged_lines_are_left_out(tmp_path: Path) -> None:
    image = record("i", "a", "user", [{"type": "image", "source": {}}])
    failed = record("f", "i", "assistant", text("API Error: 529"), isApiErrorMessage=True)
    path = write_lines(tmp_path / "s1.jsonl", [QUESTION, ANSWER, image, failed])
    path.write_text(path.read_text() + '{"type": "user", "mess')
    assert dialogues(path) == [EXCHANGE]
    assert {"a user turn with image only", "a text that the agent's program wrote"} <= set(skipped(path))
    assert any(reason.startswith("not JSON") for reason in skipped(path))


def test_a_folder_of_projects_is_read(tmp_path: Path) -> None:
    (tmp_path / "-home-work").mkdir()
    write_lines(tmp_path / "-home-work" / "s1.jsonl", [QUESTION, ANSWER])
    write_lines(tmp_path / "-home-work" / "s2.jsonl", [{"type": "summary", "summary": "x", "leafUuid": "y"}])
    assert dialogues(tmp_path) == [EXCHANGE]
    assert skipped(tmp_path) == ["a session without messages"]


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_sessions_never_raise(tmp_path: Path, data: st.DataObject) -> None:
    records = [
        QUESTION,
        record("3", "q", "assistant", USE),
        record("4", "3", "user", RESULT, origin={}),
        queued("x"),
        ANSWER,
    ]
    path = write_lines(tmp_path / "s1.jsonl", data.draw(mutated(records)))
    try:
        list(read_imports(path, "claude-code"))
    except UserError as error:
        assert "\n" not in str(error)
