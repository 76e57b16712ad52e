"""The two prompts of the synthesis and the parsers of their answers.

The prompt of [Qin24 §3.3], which asks the model for a semantically similar text in brackets and nothing else, is not
published. The embedded model was trained on exactly these prompts.
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
    """Return the turns as `User: ...` and `Assistant: ...`, one per line, without the system turn.

    Args:
        dialogue: The dialogue.
    """
    turns = [dialogue.messages[index] for pair in dialogue.turn_indices for index in pair]
    return "\n".join(f"{_SPEAKERS[m.role]}: {m.content}" for m in turns)


def parse_question(answer: str) -> str:
    """Return the rewritten question in a model's answer.

    Args:
        answer: The generated text.

    Raises:
        ValueError: If there is none in brackets.
    """
    return _bracketed(answer)


def parse_dialogue(answer: str, original: Dialogue) -> Dialogue:
    """Return the rewritten dialogue in a model's answer, with the original's system turn.

    Args:
        answer: The generated text.
        original: The dialogue that was rewritten.

    Raises:
        ValueError: If there is none in brackets, or its turns do not match those of the original.
    """
    # The split returns the text before the first label, then labels and contents alternately.
    before, *labels_and_contents = _TURN.split(_bracketed(answer))
    speakers, contents = labels_and_contents[::2], [content.strip() for content in labels_and_contents[1::2]]
    if before.strip() or speakers != ["User", "Assistant"] * len(original.user_turns):
        raise ValueError("the answer does not have the turns of the original")
    return original.with_turns("user", contents[::2]).with_turns("assistant", contents[1::2])


def _bracketed(answer: str) -> str:
    """Return the text between the first `[` and the last `]`; text around it is ignored."""
    text = strip_thoughts(answer)
    inside = text[text.find("[") + 1 : text.rfind("]")].strip() if "[" in text and "]" in text else ""
    if not inside:
        raise ValueError("nothing in brackets in the answer")
    return inside
