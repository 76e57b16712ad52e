"""Run a selection policy along a stream and record the buffer at each checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_personal.research.study.authors_script import AuthorsScriptSelection
from mlx_personal.research.study.cell import AUTHORS_SCRIPTS, WEIGHTED, Cell
from mlx_personal.selection import (
    Buffer,
    Policy,
    SelectionCandidate,
    SelectionConfig,
    Selector,
    WeightedPolicy,
    make_policy,
)


@dataclass(frozen=True, eq=False)
class ScoredDialogue:
    """A dialogue with its embedding and scores.

    Attributes:
        text: Text of the dialogue.
        vector: Embedding, float32 [D] of unit norm.
        entropies: EOE by estimator.
        dss: Domain specific score.
        domain: Dominant domain.
    """

    text: str
    vector: np.ndarray
    entropies: Mapping[str, float]
    dss: float
    domain: str

    def candidate(self, position: int, entropy: str) -> SelectionCandidate:
        """Return the dialogue as a candidate at a position of the stream, scored by one estimator of EOE."""
        return SelectionCandidate(
            # Policies assume that ids rise along the stream; indices into the data set need not.
            dialogue_id=position,
            position=position,
            text=self.text,
            vector=self.vector,
            eoe=self.entropies[entropy],
            dss=self.dss,
            domain=self.domain,
        )


@dataclass(frozen=True)
class SelectionCheckpoint:
    """The state of a selection at a checkpoint. Dialogues are given by their index in the data set.

    Attributes:
        received: Dialogues received so far.
        selected: Dialogues in the buffer; one of the authors' scripts may hold a dialogue twice.
        annotated: Those of `selected` that the user has annotated.
        questions: Dialogues annotated so far, including those that have left the buffer.
    """

    received: int
    selected: list[int]
    annotated: list[int]
    questions: int


def select_from_stream(
    cell: Cell, stream: Sequence[int], scored: Mapping[int, ScoredDialogue]
) -> list[SelectionCheckpoint]:
    """Run a cell's policy along a stream.

    At each checkpoint the user annotates the selected dialogues that are not annotated yet, the oldest first, until
    `cell.annotations` is reached. Dialogues without annotation are not trained on.

    Args:
        cell: The cell.
        stream: Indices of the streamed dialogues, in order.
        scored: The streamed dialogues by index.

    Returns:
        One record per checkpoint of the cell.
    """
    selection = (
        AuthorsScriptSelection(cell.policy.partition("-")[0], cell.bins)
        if cell.policy in AUTHORS_SCRIPTS
        else _PolicySelection(cell)
    )
    checkpoints, records = set(cell.checkpoints), []
    annotated: set[int] = set()
    for position, index in enumerate(stream):
        selection.offer(scored[index].candidate(position, cell.entropy))
        if position + 1 not in checkpoints:
            continue
        selected = selection.checkpoint()
        pending = sorted(set(selected) - annotated)
        limit = len(pending) if cell.annotations is None else cell.annotations - len(annotated)
        annotated.update(pending[:limit])
        records.append(
            SelectionCheckpoint(
                received=position + 1,
                selected=[stream[p] for p in selected],
                annotated=[stream[p] for p in selected if p in annotated],
                questions=len(annotated),
            )
        )
    return records


class _PolicySelection:
    """The package's own selector: it rejects near-duplicates, and a checkpoint does not change its buffer."""

    def __init__(self, cell: Cell):
        self._buffer = Buffer(cell.bins)
        self._selector = Selector(self._buffer, cell_policy(cell), SelectionConfig.near_duplicate, cell.seed)

    def offer(self, candidate: SelectionCandidate) -> None:
        self._selector.offer(candidate)

    def checkpoint(self) -> list[int]:
        return [b.dialogue_id for b in self._buffer.bins]


def cell_policy(cell: Cell) -> Policy:
    """Return a cell's policy.

    Raises:
        KeyError: If the cell's policy is not one of `selection`.
    """
    return WeightedPolicy(cell.weight, seed=cell.seed) if cell.policy == WEIGHTED else make_policy(cell.policy)
