"""Dialogues: a question and its answer, or several turns. They are immutable, and validated when constructed."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.errors import quoted

ROLES: Final = ("system", "user", "assistant", "tool")
# A longer message is a pasted file rather than conversation, and the cost of its attention is quadratic.
MAX_MESSAGE_CHARS = 100_000

_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)


def strip_thoughts(text: str) -> str:
    """Return text without the `<think>` blocks that reasoning models generate.

    A block that is not closed extends to the end of the text. A block whose opening tag was part of the prompt begins
    at the start of the text.

    Args:
        text: An assistant turn.
    """
    head, closing, rest = text.partition("</think>")
    if closing and "<think>" not in head:
        text = rest
    stripped = _THOUGHTS.sub("", text)
    return stripped.strip() if stripped != text or closing else text


@dataclass(frozen=True)
class Message:
    """One turn of a dialogue.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        content: The text.
        weight: 0 for an assistant turn that is only context of later ones, otherwise 1, as in OpenAI's chat data.

    Raises:
        ValueError: If the role is unknown, or the content is empty, too long or not valid Unicode text.
    """

    role: str
    content: str
    weight: int = 1

    def __post_init__(self) -> None:
        _check_role(self.role)
        if self.weight not in (0, 1) or (self.weight == 0 and self.role != "assistant"):
            raise ValueError(f"a {self.role} message of weight {self.weight}")
        if not self.content.strip():
            raise ValueError(f"an empty {self.role} message")
        if len(self.content) > MAX_MESSAGE_CHARS:
            raise ValueError(f"{self._kind} of over {MAX_MESSAGE_CHARS:,} characters")
        if "\0" in self.content:
            raise ValueError(f"a NUL byte in {self._kind}")
        try:
            self.content.encode()  # many times as fast as looking at each character
        except UnicodeEncodeError:
            # A byte that is not UTF-8 becomes one where a file is read.
            what = "a lone surrogate (half a character, or a byte that is not UTF-8)"
            raise ValueError(f"{what} in {self._kind}") from None

    @property
    def _kind(self) -> str:
        return f"{'an' if self.role == 'assistant' else 'a'} {self.role} message"


@dataclass(frozen=True)
class Dialogue:
    """A dialogue: an optional system turn, then exchanges of a user turn and an assistant turn.

    Between them may be results of tools, which are context of the answer. An exchange whose answer has weight 0 is
    context of later ones: it is in the prompt, and nothing else is computed from it.

    Attributes:
        messages: The turns.

    Raises:
        ValueError: If the order of the roles is wrong, only one side speaks, or the last answer has weight 0; the
            message is one line.

    References:
        The dialogue set of [Qin24 §3.1].
    """

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        roles = [m.role for m in self.messages]
        if roles and roles[0] == "system":
            roles = roles[1:]
        if not roles:
            raise ValueError("an empty dialogue")
        if len(set(roles)) == 1:
            raise ValueError(f"a one-sided dialogue: only the {roles[0]} speaks")
        expected = "user"
        for position, role in enumerate(roles):
            if role == "tool" and expected == "assistant":
                continue
            if role != expected:
                raise ValueError(f"a wrong role order: turn {position + 1} is {role}, expected {expected}")
            expected = "assistant" if role == "user" else "user"
        if expected == "assistant":
            raise ValueError("the last question has no answer")
        if self.messages[-1].weight == 0:
            raise ValueError("the last answer has weight 0")

    @classmethod
    def of(cls, question: str, answer: str) -> Dialogue:
        """Return the single-turn dialogue of a question and its answer.

        Args:
            question: The user's turn.
            answer: The assistant's turn.
        """
        return cls((Message("user", question), Message("assistant", answer)))

    @classmethod
    def from_messages(cls, messages: Iterable[Mapping[str, Any]]) -> Dialogue:
        """Return the dialogue of messages in chat format, `[{"role": ..., "content": ...}, ...]`.

        Args:
            messages: The messages; a content may be a list of text parts.

        Raises:
            ValueError: If they are not a dialogue.
        """
        return cls(tuple(_parse_message(m) for m in messages))

    def to_messages(self) -> list[dict[str, Any]]:
        """Return the messages in chat format, as used by chat templates and JSON."""
        return [
            {"role": m.role, "content": m.content, **({} if m.weight else {"weight": m.weight})} for m in self.messages
        ]

    @functools.cached_property
    def key(self) -> str:
        """The SHA-256 of the content in hex; equal dialogues from different files have the same key."""
        return hashlib.sha256(json.dumps(self.to_messages(), ensure_ascii=True).encode()).hexdigest()

    @functools.cached_property
    def turn_indices(self) -> tuple[tuple[int, int], ...]:
        """For each answer of weight 1 the indices of its question and of itself in `messages`."""
        users = [i for i, m in enumerate(self.messages) if m.role == "user"]
        assistants = [i for i, m in enumerate(self.messages) if m.role == "assistant"]
        pairs = zip(users, assistants, strict=True)
        return tuple((user, assistant) for user, assistant in pairs if self.messages[assistant].weight)

    @property
    def user_turns(self) -> tuple[str, ...]:
        """The contents of the user turns."""
        return tuple(self.messages[user].content for user, _ in self.turn_indices)

    @property
    def assistant_turns(self) -> tuple[str, ...]:
        """The contents of the assistant turns."""
        return tuple(self.messages[assistant].content for _, assistant in self.turn_indices)

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
        """The text that is embedded and scored [Qin24 §3.1]: user turns, and assistant turns without thoughts."""
        pairs = zip(self.user_turns, self.assistant_turns, strict=True)
        return "\n".join(text for user, assistant in pairs for text in (user, strip_thoughts(assistant)))

    def exchanges(self) -> list[tuple[list[dict[str, Any]], str]]:
        """Return for each assistant turn all messages before it, in chat format, and its content."""
        messages = self.to_messages()
        return [(messages[:assistant], messages[assistant]["content"]) for _, assistant in self.turn_indices]

    def with_turns(self, role: str, contents: Iterable[str]) -> Dialogue:
        """Return this dialogue with all turns of one role replaced.

        Args:
            role: `user` or `assistant`.
            contents: The new contents, in order.

        Raises:
            ValueError: If their number differs from that of the turns, or a content is not valid.
        """
        replacements = list(contents)
        indices = [pair[("user", "assistant").index(role)] for pair in self.turn_indices]
        if len(replacements) != len(indices):
            raise ValueError(f"{len(replacements)} {role} turns for a dialogue with {len(indices)}")
        turns = dict(zip(indices, replacements, strict=True))
        return Dialogue(tuple(Message(m.role, turns.get(i, m.content), m.weight) for i, m in enumerate(self.messages)))

    def without_thoughts(self) -> Dialogue:
        """Return this dialogue without the thoughts in its assistant turns.

        Raises:
            ValueError: If an assistant turn consists of thoughts only.
        """
        return Dialogue(
            tuple(
                Message(m.role, strip_thoughts(m.content), m.weight) if m.role == "assistant" else m
                for m in self.messages
            )
        )


def _parse_message(raw: Mapping[str, Any]) -> Message:
    if not isinstance(raw, Mapping):
        raise ValueError("a message is not an object with role and content")
    role, content = raw.get("role"), raw.get("content")
    if not isinstance(role, str):
        raise ValueError("a message without a role")
    _check_role(role)  # before the messages below quote it
    if isinstance(content, list):
        content = "\n".join(_text_of_part(part) for part in content)
    if not isinstance(content, str):
        raise ValueError(f"a {role} message whose content is not text")
    return Message(role, content, 0 if role == "assistant" and raw.get("weight") == 0 else 1)


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise ValueError(f"the role {quoted(role)} is none of {', '.join(ROLES)}")


def _text_of_part(part: Any) -> str:
    """Return the text of a content part of the chat format; images and audio are not supported."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise ValueError("a content part that is not text")
