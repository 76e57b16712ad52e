"""A conversation in one text, as a chat template or a transcript writes it, divided into turns."""

from __future__ import annotations

import re
from typing import Final

from mlx_personal.importers.conversation import Turn, role_of

# A role at the beginning of a line, and what it is called in instruction data.
_SPEAKERS: Final = "system|user|human|assistant|ai|bot|gpt|model|instruction|input|response|question|answer"
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
_LLAMA_2: Final = re.compile(
    r"(?:<s>)?\s*\[INST\]\s*(?:<<SYS>>(?P<system>.*?)<</SYS>>)?(?P<user>.*?)\[/INST\](?P<assistant>.*?)"
    r"(?=(?:<s>)?\s*\[INST\]|\Z)",
    re.DOTALL,
)


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
    turns = []
    for match in _LLAMA_2.finditer(text):
        for role in ("system", "user", "assistant"):
            content = (match[role] or "").replace("</s>", "").strip()
            if content or role != "system":
                turns.append(Turn(role, content))
    return turns
