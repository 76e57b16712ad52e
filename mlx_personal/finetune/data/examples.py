"""What a training run learns from: dialogues, and preference pairs."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from mlx_personal.dialogue import Dialogue, strip_thoughts


@dataclass(frozen=True)
class Example:
    """A dialogue to train on.

    Attributes:
        dialogue: The dialogue, whose assistant turns are the targets.
        group: Examples of the same group are on the same side of the validation split; None for a group of its own.
        weight: Weight of its targets in the mean loss of a step, above 0, so that synthetic data can count less than
            real data (this project's own design). Validation samples have a weight of 1.
    """

    dialogue: Dialogue
    group: Hashable | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to the same question, of which the user prefers one.

    Attributes:
        chosen: The dialogue that ends with the preferred answer. Only this answer is compared.
        rejected: The same dialogue with the other answer.
        group: As that of an example; a pair and an example of the same group are on the same side of the split.

    Raises:
        ValueError: If the dialogues differ in more than their last answers.
    """

    chosen: Dialogue
    rejected: Dialogue
    group: Hashable | None = None

    def __post_init__(self) -> None:
        if self.chosen.messages[:-1] != self.rejected.messages[:-1]:
            raise ValueError("the two sides of a preference pair differ in more than their last answers")

    @property
    def is_equal(self) -> bool:
        """Whether both answers are the same text, from which nothing can be learned."""
        return visible_answer(self.chosen) == visible_answer(self.rejected)


def visible_answer(dialogue: Dialogue) -> str:
    """Return the last answer of a dialogue as it is trained on, without thoughts; empty if it consists of thoughts.

    Args:
        dialogue: The dialogue.
    """
    return strip_thoughts(dialogue.answer).strip()
