"""Claude Code: the session files of `~/.claude/projects`, a record a line.

The program writes its own messages into the session as if the person had typed them: the output of commands, reminders,
summaries, notifications of tasks. They are recognized by fields of the record or by the tag that they begin with.

What the person types while the agent works is in no record of its own kind but in an attachment `queued_command`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlx_personal.importers.conversation import Conversation, Skipped
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of, text_of_parts
from mlx_personal.importers.formats.agent_session import INJECTED, SUB_AGENT, TOOL_OUTPUT, AgentSession
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO
from mlx_personal.importers.json_records import read_records

# Fields that are true in records which the person did not write.
_INJECTED_FIELDS: Final = ("isMeta", "isCompactSummary", "isVisibleInTranscriptOnly")
# Commands after which the agent answers, and notifications that it answers.
_COMMAND: Final = re.compile(r"\s*<(command-name|command-message|bash-input|task-notification|teammate-message)\b")
_INJECTED: Final = re.compile(
    r"\s*(<(local-command-\w+|bash-std\w+|user-prompt-submit-hook|tick)\b|\[Request interrupted by user"
    r"|This session is being continued from a previous conversation|Caveat: The messages below were generated)"
)
# Records of titles, and the keys in them: the person's own, the program's, and that of older versions.
_TITLES: Final = {"custom-title": "customTitle", "ai-title": "aiTitle", "summary": "summary"}
# Texts that the program adds to what the person typed.
_ADDED: Final = re.compile(r"<(system-reminder|ide_opened_file|ide_selection|ide_diagnostics)>.*?</\1>", re.DOTALL)


class ClaudeCodeImporter:
    """Reads sessions of Claude Code."""

    name = "claude-code"
    refuses = False
    side_files: frozenset[str] = frozenset()

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is a session of Claude Code."""
        if head.kind != "lines":
            return NO
        is_session = '"sessionId"' in head.text and ('"parentUuid"' in head.text or '"isSidechain"' in head.text)
        return CERTAIN if is_session or head.has("leafUuid", "summary") else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the session of a file."""
        session = AgentSession(self.name, document.where)
        lengths: dict[str, int] = {}  # number of turns when each record was read
        identity, titles = "", dict[str, str]()
        for record in read_records(document, head):
            if isinstance(record, Skipped):
                yield record
                continue
            value = as_mapping(record.value)
            kind = text_of(value.get("type"))
            if kind in _TITLES:
                titles[kind] = text_of(value.get(_TITLES[kind])) or titles.get(kind, "")
                continue
            if value.get("isSidechain") is True:
                session.leave_out(SUB_AGENT)
                continue
            identity = identity or text_of(value.get("sessionId"))
            if kind == "user":
                _read_user(session, value, lengths)
            elif kind == "assistant":
                _read_assistant(session, value)
            elif kind == "attachment":
                _read_attachment(session, value)
            if text_of(value.get("uuid")):
                lengths[value["uuid"]] = len(session)
        yield from session.result(identity, next((titles[kind] for kind in _TITLES if titles.get(kind)), ""))


def _read_user(session: AgentSession, value: Mapping[str, Any], lengths: Mapping[str, int]) -> None:
    """Add a record in the person's name: what it typed, a command, the output of a tool, or neither."""
    content = as_mapping(value.get("message")).get("content")
    results = [part for part in as_list(content) if as_mapping(part).get("type") == "tool_result"]
    for _ in results:
        session.leave_out(TOOL_OUTPUT)
    text, left_out = text_of_parts(content)
    left_out.pop("tool_result", None)
    if _is_injected(value) or _INJECTED.match(text):
        session.leave_out(INJECTED)
        return
    if not _is_by_the_person(value) or _COMMAND.match(text):
        session.command()
        return
    typed = _ADDED.sub("", text).strip()
    if not typed and (results or not left_out):
        if text.strip():
            session.leave_out(INJECTED)
        return
    parent = lengths.get(text_of(value.get("parentUuid")))
    if parent is not None and parent < len(session):
        session.take_back(parent)
    session.ask(typed, as_time(value.get("timestamp")), left_out)


def _read_attachment(session: AgentSession, value: Mapping[str, Any]) -> None:
    """Add what the person typed while the agent worked; what the program queued then is left out."""
    attachment = as_mapping(value.get("attachment"))
    if attachment.get("type") != "queued_command":
        return  # the state of the program, such as open files
    text, left_out = text_of_parts(attachment.get("prompt"))
    typed = _ADDED.sub("", text).strip()
    is_prompt = attachment.get("commandMode", "prompt") == "prompt" and _is_by_the_person(attachment)
    if _is_injected(value) or _is_injected(attachment) or _INJECTED.match(text) or not is_prompt:
        # The agent reads it beside its work, and still answers the question before it.
        session.leave_out(INJECTED)
    elif _COMMAND.match(text):
        session.command()
    elif typed or left_out:
        session.ask(typed, as_time(value.get("timestamp")), left_out)


def _is_injected(fields: Mapping[str, Any]) -> bool:
    return any(fields.get(name) is True for name in _INJECTED_FIELDS)


def _is_by_the_person(fields: Mapping[str, Any]) -> bool:
    return (as_mapping(fields.get("origin")).get("kind") or "human") == "human"


def _read_assistant(session: AgentSession, value: Mapping[str, Any]) -> None:
    message = as_mapping(value.get("message"))
    if value.get("isApiErrorMessage") is True or message.get("model") == "<synthetic>":
        session.leave_out(INJECTED)
        return
    content = message.get("content")
    for part in as_list(content) if not isinstance(content, str) else [{"type": "text", "text": content}]:
        fields = as_mapping(part)
        if fields.get("type") == "text":
            session.answer(text_of(fields.get("text")), as_time(value.get("timestamp")), text_of(message.get("model")))
        elif fields.get("type") in ("tool_use", "server_tool_use"):
            session.call_tool()
