"""The dialogue set: a question and its answer, or several turns. Valid by construction, immutable, hashed."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.errors import quoted

ROLES: Final = ("system", "user", "assistant")
# A longer message is a pasted file, not something said; it would also cost one quadratic attention per scoring.
MAX_MESSAGE_CHARS = 100_000

_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)


def strip_thoughts(text: str) -> str:
    """`text` without the `<think>` parts that reasoning models write; an unclosed one ends with the text.

    A `</think>` whose opening tag stood in the prompt closes a part that began with the text.
    """
    head, closing, rest = text.partition("</think>")
    if closing and "<think>" not in head:
        text = rest
    stripped = _THOUGHTS.sub("", text)
    return stripped.strip() if stripped != text or closing else text


@dataclass(frozen=True)
class Message:
    """One turn: who said it (`system`, `user` or `assistant`) and what was said. ValueError if it cannot be a turn."""

    role: str
    content: str

    def __post_init__(self) -> None:
        _check_role(self.role)
        if not self.content.strip():
            raise ValueError(f"an empty {self.role} message")
        if len(self.content) > MAX_MESSAGE_CHARS:
            raise ValueError(
                f"a {self.role} message of {len(self.content):,} characters; at most {MAX_MESSAGE_CHARS:,} are taken"
            )
        if "\0" in self.content:
            raise ValueError(f"a NUL byte in a {self.role} message")
        if not self.content.isascii() and any("\ud800" <= c <= "\udfff" for c in self.content):
            raise ValueError(f"a lone surrogate (half a character) in a {self.role} message")


@dataclass(frozen=True)
class Dialogue:
    """A dialogue set (paper 1, Fig. 1): an optional system turn, then user and assistant in turn, the assistant last.

    ValueError, in one line, for any other order and for one-sided dialogues.
    """

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        spoken = [m.role for m in self.messages]
        if spoken and spoken[0] == "system":
            spoken = spoken[1:]
        if not spoken:
            raise ValueError("an empty dialogue")
        if len(set(spoken)) == 1:
            raise ValueError(f"a one-sided dialogue: only the {spoken[0]} speaks")
        for position, role in enumerate(spoken):
            expected = ("user", "assistant")[position % 2]
            if role != expected:
                raise ValueError(f"a wrong role order: turn {position + 1} is {role}, expected {expected}")
        if spoken[-1] != "assistant":
            raise ValueError("the last question has no answer")

    @classmethod
    def of(cls, question: str, answer: str) -> Dialogue:
        """The single-turn dialogue of one question and its answer."""
        return cls((Message("user", question), Message("assistant", answer)))

    @classmethod
    def from_messages(cls, messages: Iterable[Mapping[str, Any]]) -> Dialogue:
        """From the chat format, `[{"role": ..., "content": ...}, ...]`; content may be a list of text parts."""
        return cls(tuple(_message(m) for m in messages))

    def to_messages(self) -> list[dict[str, str]]:
        """The chat format, as chat templates and JSON take it."""
        return [{"role": m.role, "content": m.content} for m in self.messages]

    @functools.cached_property
    def key(self) -> str:
        """The content's SHA-256 in hex: equal for equal dialogues, whatever file they came from."""
        return hashlib.sha256(json.dumps(self.to_messages(), ensure_ascii=True).encode()).hexdigest()

    @property
    def user_turns(self) -> tuple[str, ...]:
        return tuple(m.content for m in self.messages if m.role == "user")

    @property
    def assistant_turns(self) -> tuple[str, ...]:
        return tuple(m.content for m in self.messages if m.role == "assistant")

    @property
    def question(self) -> str:
        """The last user turn."""
        return self.user_turns[-1]

    @property
    def answer(self) -> str:
        """The last assistant turn."""
        return self.assistant_turns[-1]

    @property
    def text(self) -> str:
        """What is embedded and scored: all user turns, and all assistant turns without their thoughts, a line each
        (paper 1, 3.1)."""
        spoken = [m for m in self.messages if m.role != "system"]
        return "\n".join(strip_thoughts(m.content) if m.role == "assistant" else m.content for m in spoken)

    def exchanges(self) -> list[tuple[list[dict[str, str]], str]]:
        """For every assistant turn, the messages before it and its content."""
        messages = self.to_messages()
        return [(messages[:i], m["content"]) for i, m in enumerate(messages) if m["role"] == "assistant"]

    def with_turns(self, role: str, contents: Iterable[str]) -> Dialogue:
        """This dialogue with all turns of one role replaced, in order; ValueError if their number differs."""
        new, replaced = list(contents), [i for i, m in enumerate(self.messages) if m.role == role]
        if len(new) != len(replaced):
            raise ValueError(f"{len(new)} {role} turns given for a dialogue of {len(replaced)}")
        turns = dict(zip(replaced, new, strict=True))
        return Dialogue(tuple(Message(m.role, turns.get(i, m.content)) for i, m in enumerate(self.messages)))

    def without_thoughts(self) -> Dialogue:
        """This dialogue with the thoughts taken out of the assistant's turns; ValueError if nothing else was said."""
        return self.with_turns("assistant", [strip_thoughts(turn) for turn in self.assistant_turns])


def _message(raw: Mapping[str, Any]) -> Message:
    if not isinstance(raw, Mapping):
        raise ValueError("a message is not an object with role and content")
    role, content = raw.get("role"), raw.get("content")
    if not isinstance(role, str):
        raise ValueError("a message without a role")
    _check_role(role)  # before it is quoted below
    if isinstance(content, list):
        content = "\n".join(_part(part) for part in content)
    if not isinstance(content, str):
        raise ValueError(f"a {role} message whose content is not text")
    return Message(role, content)


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise ValueError(f"the role {quoted(role)} is none of {', '.join(ROLES)}")


def _part(part: Any) -> str:
    """The text of one content part of the chat format; images and audio cannot be learnt from."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise ValueError("a content part that is not text")
