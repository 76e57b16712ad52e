"""A stream goes through a policy: what the buffer holds at each checkpoint, and what the owner was asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_personal.research.study.authors_script import ScriptSelection
from mlx_personal.research.study.cell import OWN, SCRIPTS, Cell
from mlx_personal.selection import (
    Buffer,
    Candidate,
    Policy,
    SelectionConfig,
    Selector,
    WeightedPolicy,
    policy_named,
)


@dataclass(frozen=True, eq=False)
class Scored:
    """What selection knows of a dialogue set: `vector`: float32 [D] of unit norm; `entropies`: EOE by estimator."""

    text: str
    vector: np.ndarray
    entropies: Mapping[str, float]
    dss: float
    domain: str

    def candidate(self, position: int, entropy: str) -> Candidate:
        """It, as it is offered `position` sets after the stream's first one."""
        return Candidate(
            # Policies take it that ids rise along the stream, which the indices of samples need not.
            dialogue_id=position,
            position=position,
            text=self.text,
            vector=self.vector,
            eoe=self.entropies[entropy],
            dss=self.dss,
            domain=self.domain,
        )


@dataclass(frozen=True)
class Kept:
    """A checkpoint: `received` sets so far, the `kept` ones (indices of samples; a script may keep one twice), those
    of them that were `annotated`, and how many `questions` the owner was asked in all."""

    received: int
    kept: list[int]
    annotated: list[int]
    questions: int


def select(cell: Cell, stream: Sequence[int], scored: Mapping[int, Scored]) -> list[Kept]:
    """What `cell`'s policy keeps of the samples whose indices `stream` has, at each of the cell's checkpoints.

    At a checkpoint the owner is asked about every kept set that was not judged before, oldest first, as long as
    `cell.annotations` allows; sets that nobody judged are not learnt.
    """
    selection = ScriptSelection(cell.policy.partition("-")[0], cell.bins) if cell.policy in SCRIPTS else _Rule(cell)
    checkpoints, found = set(cell.checkpoints), []
    judged: set[int] = set()
    for position, index in enumerate(stream):
        selection.offer(scored[index].candidate(position, cell.entropy))
        if position + 1 not in checkpoints:
            continue
        kept = selection.checkpoint()
        waiting = sorted(set(kept) - judged)
        room = len(waiting) if cell.annotations is None else cell.annotations - len(judged)
        judged.update(waiting[:room])
        annotated = [stream[p] for p in kept if p in judged]
        found.append(Kept(position + 1, [stream[p] for p in kept], annotated, len(judged)))
    return found


class _Rule:
    """A policy behind the product's own selector: near-duplicates are refused, and no checkpoint changes the buffer."""

    def __init__(self, cell: Cell):
        self._buffer = Buffer(cell.bins)
        self._selector = Selector(self._buffer, policy_of(cell), SelectionConfig.near_duplicate, cell.seed)

    def offer(self, candidate: Candidate) -> None:
        self._selector.offer(candidate)

    def checkpoint(self) -> list[int]:
        return [b.dialogue_id for b in self._buffer.bins]


def policy_of(cell: Cell) -> Policy:
    """The cell's policy; KeyError for one that is none of the product's."""
    return WeightedPolicy(cell.weight, seed=cell.seed) if cell.policy == OWN else policy_named(cell.policy)
