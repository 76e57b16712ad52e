"""Codex: the rollout files of `~/.codex/sessions` and `archived_sessions`, a record a line.

Each line has a `type` and a `payload`; in older files it is the payload alone. What the person typed is in events
`user_message`; where there are none, in messages of the role `user`, beside context that the program adds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlx_personal.importers.conversation import Conversation, Skipped
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of
from mlx_personal.importers.formats.agent_session import INJECTED, SUB_AGENT, TOOL_OUTPUT, AgentSession
from mlx_personal.importers.formats.session_lines import first_line
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO
from mlx_personal.importers.json_records import read_records

_INJECTED: Final = re.compile(
    r"\s*(# AGENTS\.md instructions|<(environment_context|user_instructions|INSTRUCTIONS|turn_aborted|skill"
    r"|user_shell_command|recommended_plugins|skills_instructions|permissions instructions|user_action"
    r"|subagent_notification)\b)",
    re.IGNORECASE,
)
# An editor writes its open files before what the person typed.
_EDITOR_CONTEXT: Final = re.compile(r"\s*# Context from my IDE setup:.*?## My request for Codex:\s*", re.DOTALL)
_USER_EVENT: Final = re.compile(r'"type":\s*"user_message"')
_CALLS: Final = ("function_call", "local_shell_call", "custom_tool_call", "web_search_call", "tool_search_call")
_TEXT_TYPES: Final = ("input_text", "output_text", "text")
_OUTPUTS: Final = ("function_call_output", "custom_tool_call_output", "tool_search_output")


class CodexImporter:
    """Reads sessions of Codex."""

    name = "codex"
    refuses = False
    side_files: frozenset[str] = frozenset()

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is a session of Codex."""
        line = first_line(head)
        if line.get("type") == "session_meta" and "payload" in line:
            return CERTAIN
        return CERTAIN if {"id", "timestamp", "instructions"} <= line.keys() and "role" not in line else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the session of a file."""
        reader = _Reader(AgentSession(self.name, document.where), _USER_EVENT.search(head.text) is not None)
        for record in read_records(document, head):
            if isinstance(record, Skipped):
                yield record
                continue
            reader.read(as_mapping(record.value))
            if reader.is_sub_agent:
                yield Skipped(document.where, SUB_AGENT, self.name)
                return
        yield from reader.session.result(reader.identity, reader.title, reader.time)


class _Reader:
    """Reads the records of a session.

    Args:
        session: Receives the turns.
        has_user_events: Whether events record what the person typed, so that messages need not be read for it.
    """

    def __init__(self, session: AgentSession, has_user_events: bool):
        self.session = session
        self.identity = self.title = ""
        self.time: float | None = None
        self.is_sub_agent = False
        self._has_user_events = has_user_events
        self._model = ""

    def read(self, record: Mapping[str, Any]) -> None:
        """Read a record."""
        time = as_time(record.get("timestamp"))
        payload = as_mapping(record.get("payload")) if "payload" in record else record
        kind = record.get("type")
        if kind == "session_meta" or (kind is None and "instructions" in record):
            if not self.identity:  # a session that continues another one repeats its records
                self.identity, self.time = text_of(payload.get("id")), time or as_time(payload.get("timestamp"))
                is_spawned = "subagent" in as_mapping(payload.get("source"))
                self.is_sub_agent = is_spawned or payload.get("thread_source") == "subagent"
        elif kind == "turn_context":
            self._model = text_of(payload.get("model"))
        elif kind == "event_msg":
            if payload.get("type") == "user_message" and self._has_user_events:
                self._ask(text_of(payload.get("message")), time, len(as_list(payload.get("images"))))
            elif payload.get("type") == "thread_name_updated":
                self.title = text_of(payload.get("thread_name")) or self.title
        elif payload.get("type") == "message":
            self._read_message(payload, time)
        elif payload.get("type") in _CALLS:
            self.session.call_tool()
        elif payload.get("type") in _OUTPUTS:
            self.session.leave_out(TOOL_OUTPUT)

    def _read_message(self, payload: Mapping[str, Any], time: float | None) -> None:
        role = payload.get("role")
        parts = [as_mapping(part) for part in as_list(payload.get("content"))]
        texts = [text_of(part.get("text")) for part in parts if part.get("type") in _TEXT_TYPES]
        if role == "assistant":
            self.session.answer("\n".join(texts), time, self._model)
        elif role == "user":
            typed = [text for text in texts if not _INJECTED.match(text)]
            images = sum(part.get("type") == "input_image" for part in parts)
            if len(typed) < len(texts):
                self.session.leave_out(INJECTED)
            if (typed or images) and not self._has_user_events:
                self._ask("\n".join(typed), time, images)

    def _ask(self, text: str, time: float | None, images: int) -> None:
        text = _EDITOR_CONTEXT.sub("", text).strip()
        if _INJECTED.match(text):
            self.session.leave_out(INJECTED)
        else:
            self.session.ask(text, time, {"image": images} if images else {})
