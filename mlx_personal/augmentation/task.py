"""What a collaboration is about: one user's records of one task, and how the device model is asked for an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlx_personal.dialogue import Dialogue

# Where a record's text stands in a task's question.
TEXT: Final = "{text}"


@dataclass(frozen=True)
class Record:
    """One thing of one user: what stood there, and what the user made of it. ValueError where either is empty."""

    text: str
    answer: str

    def __post_init__(self) -> None:
        for name in ("text", "answer"):
            if not getattr(self, name).strip():
                raise ValueError(f"a record without {'a text' if name == 'text' else 'an answer'}")


@dataclass(frozen=True)
class Task:
    """What all records of a user have in common.

    ValueError for a question without a place for the text, and for labels that are empty or not different.

    Args:
        question: how the device model is asked; `{text}` stands for the record's text.
        labels: all answers there are; none where the answer is free text.
    """

    question: str = TEXT
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if TEXT not in self.question:
            raise ValueError(f"the question has no {TEXT}")
        if len(set(self.labels)) < len(self.labels) or not all(label.strip() for label in self.labels):
            raise ValueError("the labels are not different, or one is empty")

    def dialogue(self, record: Record) -> Dialogue:
        """The record as the device model learns it."""
        return Dialogue.of(self.ask(record.text), record.answer)

    def ask(self, text: str) -> str:
        """The question about a text."""
        # Not `format`: texts are full of braces.
        return self.question.replace(TEXT, text)
