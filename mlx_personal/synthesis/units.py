"""The parts of a dialogue that are rewritten one by one, and the prompts for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from mlx_personal.dialogue import Dialogue
from mlx_personal.models.lexical_constraints import LexicalConstraint
from mlx_personal.synthesis.languages import Kind, Language


@dataclass(frozen=True)
class Unit:
    """A part of a dialogue that gets one prompt: a dialogue, a turn or a sentence.

    Attributes:
        text: What is rewritten.
        turn: Index of its message in the dialogue; None for the whole dialogue.
        is_fixed: Whether it stays as it is, because it is too short to be reworded.
        space: The white space after it.
        follows_address: Whether it comes after a form of address (`Doctor, ...`), so that it begins in lower case.
        is_introduced: Whether it may begin with introducing words; only one sentence of a turn does.
        language: Its language, or None.
        kind: Whether it asks, requests or states something.
    """

    text: str
    turn: int | None
    is_fixed: bool = False
    space: str = ""
    follows_address: bool = False
    is_introduced: bool = True
    language: Language | None = None
    kind: Kind = "question"


@dataclass(frozen=True)
class UnitPrompt:
    """A prompt that asks the model to rewrite a unit.

    Attributes:
        tokens: Token ids of the prompt, with the beginning of the answer if the style gives it.
        max_tokens: Maximum number of tokens of the answer.
        beginning: The text of the answer's beginning that is part of the prompt.
        constraint: Tokens that the answer should contain.
        shared: Prompts with equal values begin alike, so that they are generated together.
    """

    tokens: list[int]
    max_tokens: int
    beginning: str = ""
    constraint: LexicalConstraint | None = None
    shared: tuple[str, ...] = field(default=())


class RewriteMethod(Protocol):
    """Divides dialogues into units, asks for rewrites of them, and composes dialogues of the answers."""

    def units(self, original: Dialogue) -> list[Unit]:
        """Return the units of a dialogue, in order; an empty list if it is too long to be rewritten."""
        ...

    def prompt(self, original: Dialogue, unit: Unit, attempt: int) -> UnitPrompt:
        """Return the prompt for a unit; later attempts may differ."""
        ...

    def parse(self, unit: Unit, prompt: UnitPrompt, answer: str) -> str:
        """Return the rewritten text in an answer.

        Raises:
            ValueError: If there is none.
        """
        ...

    def compose(self, original: Dialogue, units: list[Unit], texts: list[str]) -> Dialogue:
        """Return the dialogue that consists of the rewritten units.

        Raises:
            ValueError: If they are no dialogue like the original.
        """
        ...
