"""Which bin gives way to a new dialogue when the buffer is full. A policy is a value of the one interface `Policy`.

A policy sees the candidate, the buffer and a random generator, and keeps no state of its own: what it needs to remember
(who came first, what lies near what) is in the bins. Free bins and near-duplicates are no policy's matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from mlx_personal.selection.buffer import Buffer

SCORE_NAMES: Final = ("eoe", "dss", "idd")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A dialogue that asks for a bin. `vector`: float32 [D] of unit norm; `position`: place in the stream, from 0."""

    dialogue_id: int
    position: int
    text: str
    vector: np.ndarray
    eoe: float
    dss: float
    domain: str


@dataclass(frozen=True)
class Choice:
    """What a policy wants, and what explains it.

    `slot`: the bin that gives way, or None; `reason`: why, for the owner; `beaten`: the slots that could have given
    way; `missed`: for each score, how many bins the candidate did not beat in it; `nearest_miss`: the slot that came
    closest to giving way without doing so, and the scores in which it held.
    """

    slot: int | None
    reason: str
    beaten: tuple[int, ...] = ()
    missed: Mapping[str, int] = field(default_factory=dict)
    nearest_miss: tuple[int, tuple[str, ...]] | None = None


class Policy(Protocol):
    """What the selector asks of a policy. Only called with a full buffer."""

    def choose(self, candidate: Candidate, buffer: Buffer, rng: np.random.Generator) -> Choice: ...


class QualityPolicy:
    """The paper's rule (3.2): a bin gives way to a dialogue that is higher in EOE, DSS and IDD at once.

    Where both have a DSS of 0, the other scores decide. If several bins could give way, one is drawn at random.

    Args:
        scores: those that are compared, names in `SCORE_NAMES`; one alone is a row of the paper's ablation (Table 4).
    """

    def __init__(self, scores: Sequence[str] = SCORE_NAMES):
        unknown = [name for name in scores if name not in SCORE_NAMES]
        if unknown or not scores:
            raise ValueError(f"scores are some of {', '.join(SCORE_NAMES)}, not {list(scores)}")
        self.scores = tuple(name for name in SCORE_NAMES if name in scores)

    def choose(self, candidate: Candidate, buffer: Buffer, rng: np.random.Generator) -> Choice:
        slots = [b.slot for b in buffer.bins]
        idd = buffer.idd_of(candidate.vector, candidate.domain)
        columns = [SCORE_NAMES.index(name) for name in self.scores]
        table, own = buffer.scores()[:, columns], np.array([candidate.eoe, candidate.dss, idd])[columns]
        held: np.ndarray = table >= own
        if "dss" in self.scores and len(self.scores) > 1:
            at = self.scores.index("dss")
            held[:, at] &= (table[:, at] > 0) | (own[at] > 0)
        beaten = tuple(slots[i] for i in np.flatnonzero(~held.any(axis=1)))
        missed = dict(zip(self.scores, held.sum(axis=0).tolist(), strict=True))
        miss = self._nearest_miss(slots, table, own, held)
        *others, last = [name.upper() for name in self.scores]
        named = f"{', '.join(others)} and {last}" if others else last
        if not beaten:
            at_once = " at once" if others else ""
            return Choice(None, f"no bin is below it in {named}{at_once}", missed=missed, nearest_miss=miss)
        slot = int(rng.choice(beaten))
        drawn = "" if len(beaten) == 1 else f"; bin {slot} was drawn from these"
        return Choice(slot, f"higher than {len(beaten)} of {len(slots)} bins in {named}{drawn}", beaten, missed, miss)

    def _nearest_miss(
        self, slots: list[int], table: np.ndarray, own: np.ndarray, held: np.ndarray
    ) -> tuple[int, tuple[str, ...]] | None:
        """Of the bins that held, the one that held in fewest scores, then by least, in units of each score's spread."""
        spread = table.std(axis=0)
        shortfall = np.where(held, (table - own) / np.where(spread > 0, spread, 1.0), 0.0).sum(axis=1)
        holding = np.flatnonzero(held.any(axis=1))
        if not len(holding):
            return None
        i = holding[np.lexsort((shortfall[holding], held[holding].sum(axis=1)))[0]]
        return slots[i], tuple(name for name, holds in zip(self.scores, held[i], strict=True) if holds)
