"""Find the prompts of all answers of a long dialogue in one rendering, in time that is linear in its length."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Messages = Sequence[Mapping[str, str]]

# Prompts that are rendered on their own to check that the others are right, as fractions of all.
_CHECKED = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class LocatedPrompts:
    """The prompts of a dialogue: each is the beginning of one rendering and the same ending.

    Attributes:
        rendering: The last prompt.
        lengths: Number of characters of the beginning for each prompt, in order.
        ending: The ending.
    """

    rendering: str
    lengths: tuple[int, ...]
    ending: str

    def prompt(self, number: int) -> str:
        """Return a prompt.

        Args:
            number: Its number, from 0.
        """
        return self.rendering[: self.lengths[number]] + self.ending


def locate_prompts(messages: Messages, render_prompt: Callable[[Messages], str]) -> LocatedPrompts | None:
    """Render a dialogue up to its last answer, and locate the prompts of all answers.

    A template that treats all turns of a role alike begins every prompt as it begins the last one. This is checked in
    three ways: the contents are replaced by placeholders to find what the template writes between turns, which has to
    be the same everywhere; together with the contents it has to give the rendering; and some prompts are rendered on
    their own.

    Args:
        messages: The dialogue without its last answer: an optional system turn, then user and assistant turns
            alternately, a user turn last.
        render_prompt: Renders the prompt that follows messages.

    Returns:
        The prompts; None if a check fails.
    """
    turns = [position for position, message in enumerate(messages) if message["role"] != "system"]
    answers = [turn for turn in turns if messages[turn]["role"] == "assistant"]
    literals = _literals(messages, turns, render_prompt)
    if literals is None:
        return None
    rendering = render_prompt(messages)
    starts = _content_starts(rendering, literals, [messages[turn]["content"] for turn in turns])
    if starts is None:
        return None
    starts_of_answers = starts[1::2]
    first = render_prompt(messages[: answers[0]])
    # A prompt may lack a space before the answer, and may have the end of a thought in addition.
    pairs = zip(first, rendering[: starts_of_answers[0]], strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    ending, gap = first[shared:], starts_of_answers[0] - shared
    lengths = [*(start - gap for start in starts_of_answers), len(rendering) - len(ending)]
    located = LocatedPrompts(rendering, tuple(lengths), ending)
    if not rendering.endswith(ending):
        return None
    for number in (int(fraction * len(answers)) for fraction in _CHECKED):
        if render_prompt(messages[: answers[number]]) != located.prompt(number):
            return None
    return located


def _literals(messages: Messages, turns: Sequence[int], render_prompt: Callable[[Messages], str]) -> list[str] | None:
    """Return what the template writes before, between and after the turns; None if it does not treat them alike."""
    nonce = secrets.token_hex(8)
    placeholders = [
        message if message["role"] == "system" else {**message, "content": f"{nonce}x{position}x"}
        for position, message in enumerate(messages)
    ]
    outline = re.split(f"{nonce}x([0-9]+)x", render_prompt(placeholders))
    literals = outline[::2]
    before_answers, before_questions = literals[1:-2:2], literals[2:-1:2]
    found = [int(position) for position in outline[1::2]] == list(turns)
    return literals if found and len(set(before_answers)) == len(set(before_questions)) == 1 else None


def _content_starts(rendering: str, literals: Sequence[str], contents: Sequence[str]) -> list[int] | None:
    """Return the positions of the contents in a rendering; None if it is not made of these texts."""
    position, starts = 0, []
    for literal, content in zip(literals, contents, strict=False):
        if not rendering.startswith(literal, position):
            return None
        position += len(literal)
        starts.append(position)
        written = content if rendering.startswith(content, position) else content.strip()  # many templates trim
        if not rendering.startswith(written, position):
            return None
        position += len(written)
    return starts if rendering[position:] == literals[-1] else None
