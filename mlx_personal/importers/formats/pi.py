"""Pi: the session files of `~/.pi/agent/sessions`, a header and then an entry a line.

Entries form a tree, because the person can go back and continue elsewhere; the last entry is in the present branch.
Files of the first version are a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlx_personal.importers.conversation import Conversation, Skipped
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of, text_of_parts
from mlx_personal.importers.formats.agent_session import INJECTED, TAKEN_BACK, TOOL_OUTPUT, AgentSession
from mlx_personal.importers.formats.session_lines import first_line
from mlx_personal.importers.formats.tree import MessageTree
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO
from mlx_personal.importers.json_records import read_records

# Texts that the program or an extension wrote; the person's own commands have the role `bashExecution`.
_INJECTED_ROLES: Final = ("custom", "hookMessage", "branchSummary", "compactionSummary", "bashExecution")


class PiImporter:
    """Reads sessions of Pi."""

    name = "pi"
    refuses = False
    side_files: frozenset[str] = frozenset()

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is a session of Pi."""
        line = first_line(head)
        return CERTAIN if line.get("type") == "session" and "cwd" in line and "harness" not in line else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the session of a file."""
        session = AgentSession(self.name, document.where)
        identity = title = ""
        time: float | None = None
        entries: dict[str, Mapping[str, Any]] = {}
        for record in read_records(document, head):
            if isinstance(record, Skipped):
                yield record
                continue
            value = as_mapping(record.value)
            if value.get("type") == "session":
                identity, time = text_of(value.get("id")), as_time(value.get("timestamp"))
            elif value.get("type") == "session_info":
                title = text_of(value.get("name")) or title
            key = text_of(value.get("id"))
            if "parentId" in value and key and key not in entries:
                entries[key] = _reduced(value)
            elif value.get("type") == "message" and "parentId" not in value:
                _read_message(session, as_mapping(value.get("message")))
        branch = _branch(entries)
        for key in branch:
            _read_entry(session, entries[key])
        for key in entries.keys() - set(branch):
            if entries[key].get("type") == "message":
                session.leave_out(TAKEN_BACK)
        yield from session.result(identity, title, time)


def _reduced(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of an entry that are needed, without what tools are called with and return, which is large."""
    message = dict(as_mapping(value.get("message")))
    if message.get("role") in ("toolResult", *_INJECTED_ROLES):
        message = {"role": message["role"]}
    elif isinstance(message.get("content"), list):
        parts = [as_mapping(part) for part in message["content"]]
        message["content"] = [part if part.get("type") == "text" else {"type": part.get("type")} for part in parts]
    return {"type": value.get("type"), "parentId": value.get("parentId"), "message": message}


def _branch(entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    parents = {key: text_of(entry.get("parentId")) or None for key, entry in entries.items()}
    return MessageTree(parents, {}).branch(next(reversed(list(entries)), None))


def _read_entry(session: AgentSession, entry: Mapping[str, Any]) -> None:
    if entry.get("type") == "message":
        _read_message(session, as_mapping(entry.get("message")))
    elif entry.get("type") in ("custom_message", "branch_summary", "compaction"):
        session.leave_out(INJECTED)


def _read_message(session: AgentSession, message: Mapping[str, Any]) -> None:
    role, time = message.get("role"), as_time(message.get("timestamp"))
    content = message.get("content")
    if role == "user":
        text, left_out = text_of_parts(content)
        session.ask(text.strip(), time, left_out)
    elif role == "assistant":
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else as_list(content):
            fields = as_mapping(part)
            if fields.get("type") == "text":
                session.answer(text_of(fields.get("text")), time, text_of(message.get("model")))
            elif fields.get("type") == "toolCall":
                session.call_tool()
    elif role == "toolResult":
        session.leave_out(TOOL_OUTPUT)
    elif role in _INJECTED_ROLES:
        session.leave_out(INJECTED)
