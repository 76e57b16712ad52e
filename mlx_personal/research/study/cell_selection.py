"""Run a selection policy along a stream of embedded dialogues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_personal.research.study.cell import Cell
from mlx_personal.selection import Buffer, SelectionCandidate, SelectionConfig, Selector, make_policy


@dataclass(frozen=True, eq=False)
class ScoredDialogue:
    """A dialogue with its embedding and scores.

    Attributes:
        text: Text of the dialogue.
        vector: Embedding, float32 [D] of unit norm.
        eoe: Entropy of embedding.
        dss: Domain specific score.
        domain: Dominant domain.
    """

    text: str
    vector: np.ndarray
    eoe: float
    dss: float
    domain: str


def select_from_stream(cell: Cell, stream: Sequence[ScoredDialogue]) -> list[int]:
    """Run a cell's policy along a stream.

    Args:
        cell: The cell.
        stream: The dialogues of the stream, in order.

    Returns:
        Positions in the stream of the dialogues that are in the buffer at its end, in ascending order.
    """
    buffer = Buffer(cell.bins)
    selector = Selector(buffer, make_policy(cell.policy, cell.seed), SelectionConfig.near_duplicate, cell.seed)
    for position, dialogue in enumerate(stream):
        selector.offer(
            SelectionCandidate(
                dialogue_id=position,
                position=position,
                text=dialogue.text,
                vector=dialogue.vector,
                eoe=dialogue.eoe,
                dss=dialogue.dss,
                domain=dialogue.domain,
            )
        )
    return sorted(bin_.dialogue_id for bin_ in buffer.bins)
