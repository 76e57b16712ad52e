"""A conversation in one text, as a chat template or a transcript writes it, divided into turns."""

from __future__ import annotations

import re
from typing import Final

from mlx_personal.importers.conversation import Turn, role_of

# A role at the beginning of a line, and what it is called in instruction data.
_SPEAKERS: Final = "system|user|human|assistant|ai|bot|gpt|model|instruction|input|response|output|question|answer"
# For each form the beginning of a turn with its role, and the marks that end a turn, which are removed.
_FORMS: Final = tuple(
    (re.compile(header, re.MULTILINE | re.IGNORECASE), re.compile(end))
    for header, end in (
        (r"<\|im_start\|>[ \t]*(?P<role>\w+)[ \t]*\r?\n", r"<\|im_end\|>|<\|endoftext\|>"),
        (
            r"<\|start_header_id\|>(?P<role>\w+)<\|end_header_id\|>",
            r"<\|eot_id\|>|<\|end_of_text\|>|<\|begin_of_text\|>",
        ),
        (r"<start_of_turn>(?P<role>\w+)[ \t]*\r?\n", r"<end_of_turn>|<bos>|<eos>"),
        (r"<\|(?P<role>system|user|assistant|tool)\|>", r"<\|end\|>|<\|endoftext\|>|</s>"),
        (rf"(?:^[ \t]*)?###[ \t]*(?P<role>{_SPEAKERS})[ \t]*(?::|\r?\n)", r"</s>|<\|endoftext\|>"),
        (rf"^[ \t]*(?P<role>{_SPEAKERS})[ \t]*:[ \t]*", r"</s>|<\|endoftext\|>"),
    )
)
# The marks of Llama 2, and the role that begins after each.
_LLAMA_2: Final = re.compile(r"(\[INST\]|\[/INST\]|<<SYS>>|<</SYS>>)")
_LLAMA_2_ROLES: Final = {"[INST]": "user", "[/INST]": "assistant", "<<SYS>>": "system", "<</SYS>>": "user"}


def turns_of_text(text: str) -> tuple[Turn, ...]:
    """Return the turns of a text that marks who speaks, without the marks; none if it marks no user and assistant.

    Text before the first mark is left out: it is the preamble of a prompt, such as Alpaca's.

    Args:
        text: The text.
    """
    if "[/INST]" in text:
        return tuple(_llama_2_turns(text))
    for header, end in _FORMS:
        matches = list(header.finditer(text))
        if len(matches) < 2:
            continue
        ends = [match.start() for match in matches[1:]] + [len(text)]
        turns: list[Turn] = []
        for match, stop in zip(matches, ends, strict=True):
            name = match["role"].lower()
            role = role_of(name) or ("user" if name == "input" else name)
            content = end.sub("", text[match.end() : stop]).strip()
            turns.append(Turn(role, content))
        if {"user", "assistant"} <= {turn.role for turn in turns}:
            return tuple(turns)
    return ()


def _llama_2_turns(text: str) -> list[Turn]:
    pieces = _LLAMA_2.split(text)[1:]
    # The marks of the beginning and the end of a sample are at the end of its answer.
    texts = [piece.strip().removesuffix("<s>").strip().removesuffix("</s>").strip() for piece in pieces[1::2]]
    turns = [Turn(_LLAMA_2_ROLES[mark], content) for mark, content in zip(pieces[::2], texts, strict=True)]
    # Nothing is between the beginnings of a user turn and of the system turn in it.
    return [turn for turn in turns if turn.text or turn.role == "assistant"]
