"""Records and tasks: the data that augmentation works on, and how the device model is asked about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlx_personal.dialogue import Dialogue

# Stands for a record's text in a task's question.
TEXT_SLOT: Final = "{text}"


@dataclass(frozen=True)
class Record:
    """A text and the answer that a user gave to it.

    Attributes:
        text: The input, such as a review.
        answer: The user's output, such as the score of that review.

    Raises:
        ValueError: If one of them is blank.
    """

    text: str
    answer: str

    def __post_init__(self) -> None:
        for name in ("text", "answer"):
            if not getattr(self, name).strip():
                raise ValueError(f"a record without {'a text' if name == 'text' else 'an answer'}")


@dataclass(frozen=True)
class Task:
    """The properties that all records of a user share.

    Attributes:
        question: How the device model is asked; `{text}` stands for the record's text.
        labels: All possible answers; empty where the answer is free text.

    Raises:
        ValueError: If the question has no `{text}`, or a label is blank or repeated.
    """

    question: str = TEXT_SLOT
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if TEXT_SLOT not in self.question:
            raise ValueError(f"the question has no {TEXT_SLOT}")
        if len(set(self.labels)) < len(self.labels) or not all(label.strip() for label in self.labels):
            raise ValueError("a label is empty, or there twice")

    def to_dialogue(self, record: Record) -> Dialogue:
        """Return the record as the dialogue that the device model is trained on."""
        return Dialogue.of(self.format_question(record.text), record.answer)

    def format_question(self, text: str) -> str:
        """Return the question about a text."""
        # Not `str.format`, because texts may contain braces.
        return self.question.replace(TEXT_SLOT, text)
