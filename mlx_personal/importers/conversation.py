"""What an importer reads from an export: conversations of turns, before they become dialogues.

A conversation is what an app recorded, in any order of roles. `normalize` turns it into a `Dialogue`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from mlx_personal.errors import escape_surrogates

Rating = Literal["good", "bad"]

# Why an answer is preferred to an alternative: the owner had it written again, or chose it of two.
REGENERATED: Final = "regenerated"
COMPARED: Final = "compared"
# Source of a rating that is a label of a training set, and not given in an app.
LABEL: Final = "label"

# Roles by the names that apps and datasets give them, in lower case.
ROLE_NAMES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("user", "human", "prompter", "customer", "instruction", "question", "you", "me"), "user"),
    **dict.fromkeys(
        (
            *("assistant", "gpt", "model", "ai", "bot", "chatbot", "chatgpt", "bing", "bard", "gemini", "claude"),
            *("grok", "deepseek", "copilot", "output", "response", "answer", "agent", "llm"),
        ),
        "assistant",
    ),
    **dict.fromkeys(("system", "developer", "instructions"), "system"),
    **dict.fromkeys(("tool", "function", "function_call_output", "ipython", "observation", "tool_result"), "tool"),
}


def role_of(name: object) -> str | None:
    """Return the role that an app or a dataset means by a name, or None if it is unknown.

    Args:
        name: The name, such as `human` or `ASSISTANT`.
    """
    return ROLE_NAMES.get(name.strip().lower()) if isinstance(name, str) else None


def _escape(instance: object, *names: str) -> None:
    """Escape halves of characters in texts that are stored without being checked as a message is."""
    for name in names:
        text = getattr(instance, name)
        if not text.isascii():
            object.__setattr__(instance, name, escape_surrogates(text))


@dataclass(frozen=True)
class Alternative:
    """Another version of an assistant turn that the app recorded.

    Attributes:
        text: Its text.
        reason: Why the recorded turn is preferred to it, such as `REGENERATED`.
        is_bad: Whether the owner rated it as bad.
    """

    text: str
    reason: str
    is_bad: bool = False

    def __post_init__(self) -> None:
        _escape(self, "text")


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation, as an app recorded it.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        text: Its text without the model's thoughts; empty if it has none.
        time: When it was written, in seconds since 1970, UTC; None if unknown.
        name: Who speaks, if several people do.
        model: Name of the model that wrote it; empty if unknown.
        weight: 0 for an assistant turn that is context and not a training target.
        calls_tool: Whether an assistant turn calls a tool, so that its text is no answer.
        rating: The owner's rating in the app, or the label of a training set; None without one.
        rating_source: Where the rating is recorded, such as `thumbs` or `label`.
        alternatives: Other versions of an assistant turn that the owner did not continue with.
        is_edit: Whether a user turn is an edited version of an earlier one.
        left_out: Numbers of the parts without text, such as `{"image": 1}`.
    """

    role: str
    text: str
    time: float | None = None
    name: str = ""
    model: str = ""
    weight: int = 1
    calls_tool: bool = False
    rating: Rating | None = None
    rating_source: str = ""
    alternatives: tuple[Alternative, ...] = ()
    is_edit: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _escape(self, "model")


@dataclass(frozen=True)
class Conversation:
    """A conversation, as an app recorded it.

    Attributes:
        turns: Its turns in order, on the branch that the app shows.
        app: Name of the app or of the file format, such as `chatgpt`.
        where: File and position in it, for messages to the user.
        id: The app's id of the conversation; empty if it has none.
        title: Its title; empty if it has none.
        time: When it began, in seconds since 1970, UTC; None if unknown.
        left_behind: Number of the questions on branches that the app does not show, which are not among the turns.
    """

    turns: tuple[Turn, ...]
    app: str
    where: str
    id: str = ""
    title: str = ""
    time: float | None = None
    left_behind: int = 0

    def __post_init__(self) -> None:
        _escape(self, "id", "title")


@dataclass(frozen=True)
class Skipped:
    """A part of an import that is left out.

    Attributes:
        where: File and position in it.
        reason: Why, on one line. Equal kinds have equal reasons, so that they can be counted.
        app: Name of the app or format, if it is known.
        is_turn: Whether it is a turn, or a part of one, of a conversation whose rest is imported.
        is_damaged: Whether it cannot be read, rather than that it is nothing to import.
    """

    where: str
    reason: str
    app: str = ""
    is_turn: bool = False
    is_damaged: bool = False
