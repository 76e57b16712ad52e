"""Annotated dialogues in groups of near-duplicates, each of which is on one side of the held-out split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, overload

from mlx_personal.dialogue import Dialogue
from mlx_personal.dialogue.similarity import NearDuplicateIndex

# Group number of a skipped dialogue, which is neither trained on nor evaluated and so needs no group.
NO_GROUP: Final = -1


@dataclass(frozen=True)
class GroupedDialogue:
    """An annotated dialogue and its side of the held-out split.

    Attributes:
        dialogue: The dialogue.
        group: Number of its group of near-duplicates.
        held_out: Whether the group is held out for evaluation.
    """

    dialogue: Dialogue
    group: int
    held_out: bool


class GroupedDialogues(Sequence[GroupedDialogue]):
    """Annotated dialogues in order, among which near-duplicates are found without comparing all of them.

    Args:
        dialogues: The first ones.

    Attributes:
        next_group: The number of the next new group.
    """

    def __init__(self, dialogues: Iterable[GroupedDialogue] = ()):
        self.next_group = 0
        self._dialogues: list[GroupedDialogue] = []
        self._index = NearDuplicateIndex()
        for dialogue in dialogues:
            self.append(dialogue)

    def append(self, dialogue: GroupedDialogue) -> None:
        """Append a dialogue.

        Args:
            dialogue: The dialogue.
        """
        self.next_group = max(self.next_group, dialogue.group + 1)
        self._dialogues.append(dialogue)
        self._index.add(dialogue.dialogue)

    def near_duplicates(self, dialogue: Dialogue) -> list[tuple[GroupedDialogue, float]]:
        """Return the near-duplicates of a dialogue in order, each with its similarity.

        Args:
            dialogue: The dialogue.
        """
        return [
            (self._dialogues[number], similarity) for number, similarity in sorted(self._index.find(dialogue).items())
        ]

    def __len__(self) -> int:
        return len(self._dialogues)

    @overload
    def __getitem__(self, index: int) -> GroupedDialogue: ...

    @overload
    def __getitem__(self, index: slice) -> list[GroupedDialogue]: ...

    def __getitem__(self, index: int | slice) -> GroupedDialogue | list[GroupedDialogue]:
        return self._dialogues[index]


SplitRule: TypeAlias = Callable[[Dialogue, Sequence[GroupedDialogue]], tuple[int, bool]]
"""Returns the group of a dialogue and whether it is held out, given the dialogues annotated before."""
