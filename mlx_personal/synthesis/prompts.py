"""The rewrite task, as a way in and a way out: the two prompts of synthesis and how their answers are read.

The paper's own wording is unknown; known is that the model is asked for a semantically similar text, between brackets
and nothing else (paper 1, 3.3). The embedded model was trained on exactly these prompts.
"""

from __future__ import annotations

import re

from mlx_personal.dialogue import Dialogue, strip_thoughts

REWRITE_QUESTION = (
    "Rewrite this question in other words, keep its meaning. Give only the new question, in brackets.\n[{question}]"
)
REWRITE_DIALOGUE = (
    "Rewrite this dialogue in other words, keep its meaning. Give only the new dialogue, in brackets.\n[{dialogue}]"
)

_SPEAKERS = {"user": "User", "assistant": "Assistant"}
_TURN = re.compile(r"^[ \t]*(User|Assistant):", re.MULTILINE)


def render_dialogue(dialogue: Dialogue) -> str:
    """The turns as `User: ...` and `Assistant: ...`, a line each; the system's is not the model's to rewrite."""
    turns = (m for m in dialogue.messages if m.role in _SPEAKERS)
    return "\n".join(f"{_SPEAKERS[m.role]}: {m.content}" for m in turns)


def parse_question(answer: str) -> str:
    """The rewritten question in a model's answer; ValueError if there is none."""
    return _bracketed(answer)


def parse_dialogue(answer: str, original: Dialogue) -> Dialogue:
    """The rewritten dialogue in a model's answer, with the original's system turn; ValueError if it has other turns."""
    # Splitting at the speakers' labels gives what stands before the first, then label and content in turn.
    before, *parts = _TURN.split(_bracketed(answer))
    speakers, contents = parts[::2], [content.strip() for content in parts[1::2]]
    if before.strip() or speakers != ["User", "Assistant"] * len(original.user_turns):
        raise ValueError("the answer has not the original's turns")
    return original.with_turns("user", contents[::2]).with_turns("assistant", contents[1::2])


def _bracketed(answer: str) -> str:
    """What stands between the first `[` and the last `]`; models that chat around it are forgiven."""
    text = strip_thoughts(answer)
    inside = text[text.find("[") + 1 : text.rfind("]")].strip() if "[" in text and "]" in text else ""
    if not inside:
        raise ValueError("nothing in brackets in the answer")
    return inside
