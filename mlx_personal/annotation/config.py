"""Settings of the annotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

InferredMode = Literal["propose", "accept", "off"]
INFERRED_MODES: Final[tuple[InferredMode, ...]] = get_args(InferredMode)


@dataclass(frozen=True)
class AnnotationConfig:
    """Settings of the annotation.

    Attributes:
        questions_per_day: Maximum number of dialogues annotated in one day, which begins at midnight local time.
            Verdicts read from a file count too.
        inferred: What is done with verdicts that follow from an export: `propose` them to the user first, `accept` them
            without asking, which does not count toward the limit, or `off`.

    Raises:
        ValueError: If a setting is out of its range.
    """

    questions_per_day: int = 10
    inferred: InferredMode = "propose"

    def __post_init__(self) -> None:
        if not 0 <= self.questions_per_day <= 1_000_000:
            raise ValueError(f"questions_per_day is {self.questions_per_day}; it must lie in 0..1,000,000")
        if self.inferred not in INFERRED_MODES:
            raise ValueError(f"inferred is {self.inferred!r}; it must be one of {', '.join(INFERRED_MODES)}")
