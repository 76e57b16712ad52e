"""The interface of replacement policies, and the rule of [Qin24 §3.2].

A policy decides which bin is replaced by a new dialogue when the buffer is full, given the candidate, the buffer and a
random generator. The bins contain what policies need of the past, such as the order of arrival. Free bins and
near-duplicates are handled before a policy is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mlx_personal.selection.buffer import Buffer
from mlx_personal.selection.config import SCORE_NAMES


@dataclass(frozen=True, eq=False)
class SelectionCandidate:
    """A dialogue that is offered to the buffer.

    Attributes:
        dialogue_id: Id of the dialogue; ids increase along the stream.
        position: Its position in the stream, from 0.
        text: Its text.
        vector: Its embedding, float32 [D] of unit norm.
        eoe: Entropy of embedding.
        dss: Domain-specific score.
        domain: Its dominant domain.
    """

    dialogue_id: int
    position: int
    text: str
    vector: np.ndarray
    eoe: float
    dss: float
    domain: str


@dataclass(frozen=True)
class PolicyDecision:
    """The decision of a policy and its explanation.

    Attributes:
        slot: Bin to replace; None to reject the candidate.
        reason: The reason, for the user.
        beaten_slots: Bins that could have been replaced.
        unbeaten_counts: For each compared score, the number of bins that score at least as high as the candidate.
        nearest_miss: Slot of the bin that came closest to being replaced, and the scores in which it was not beaten.
    """

    slot: int | None
    reason: str
    beaten_slots: tuple[int, ...] = ()
    unbeaten_counts: Mapping[str, int] = field(default_factory=dict)
    nearest_miss: tuple[int, tuple[str, ...]] | None = None


class Policy(Protocol):
    """Decides which bin of a full buffer is replaced."""

    def choose(self, candidate: SelectionCandidate, buffer: Buffer, rng: np.random.Generator) -> PolicyDecision:
        """Decide whether a candidate replaces a bin.

        Args:
            candidate: The candidate.
            buffer: The buffer, which is full.
            rng: Random generator for this candidate.
        """
        ...


class QualityPolicy:
    """The rule of [Qin24 §3.2]: a dialogue replaces a bin if it is higher in EOE, DSS and IDD at once.

    If both have a DSS of 0, the other scores decide. If several bins could be replaced, one is drawn at random.

    Args:
        scores: Scores to compare, names in `SCORE_NAMES`; a single score is a column of the ablation [Qin24 Table 4].

    Attributes:
        scores: Scores that are compared.

    Raises:
        ValueError: If a name is unknown, or there is none.
    """

    def __init__(self, scores: Sequence[str] = SCORE_NAMES):
        unknown = [name for name in scores if name not in SCORE_NAMES]
        if unknown or not scores:
            raise ValueError(f"scores is {list(scores)}; it must be some of {', '.join(SCORE_NAMES)}")
        self.scores = tuple(name for name in SCORE_NAMES if name in scores)

    def choose(self, candidate: SelectionCandidate, buffer: Buffer, rng: np.random.Generator) -> PolicyDecision:
        """Replace one of the bins that are lower in all compared scores, if there are any."""
        slots = [b.slot for b in buffer.bins]
        idd = buffer.idd_of(candidate.vector, candidate.domain)
        columns = [SCORE_NAMES.index(name) for name in self.scores]
        bin_scores = buffer.scores()[:, columns]
        candidate_scores = np.array([candidate.eoe, candidate.dss, idd])[columns]
        unbeaten: np.ndarray = bin_scores >= candidate_scores
        if "dss" in self.scores and len(self.scores) > 1:
            dss = self.scores.index("dss")
            unbeaten[:, dss] &= (bin_scores[:, dss] > 0) | (candidate_scores[dss] > 0)
        beaten_slots = tuple(slots[i] for i in np.flatnonzero(~unbeaten.any(axis=1)))
        counts = dict(zip(self.scores, unbeaten.sum(axis=0).tolist(), strict=True))
        nearest_miss = self._nearest_miss(slots, bin_scores, candidate_scores, unbeaten)
        *others, last = [name.upper() for name in self.scores]
        names = f"{', '.join(others)} and {last}" if others else last
        if not beaten_slots:
            at_once = " at once" if others else ""
            reason = f"no bin is below it in {names}{at_once}"
            return PolicyDecision(None, reason, unbeaten_counts=counts, nearest_miss=nearest_miss)
        slot = int(rng.choice(beaten_slots))
        drawn = "" if len(beaten_slots) == 1 else f"; bin {slot} was drawn from these"
        reason = f"higher than {len(beaten_slots)} of {len(slots)} bins in {names}{drawn}"
        return PolicyDecision(slot, reason, beaten_slots, counts, nearest_miss)

    def _nearest_miss(
        self, slots: list[int], bin_scores: np.ndarray, candidate_scores: np.ndarray, unbeaten: np.ndarray
    ) -> tuple[int, tuple[str, ...]] | None:
        """Return the bin that was unbeaten in the fewest scores, among equal ones by the fewest standard deviations."""
        spread = bin_scores.std(axis=0)
        shortfall = np.where(unbeaten, (bin_scores - candidate_scores) / np.where(spread > 0, spread, 1.0), 0.0)
        total_shortfall = shortfall.sum(axis=1)
        missed = np.flatnonzero(unbeaten.any(axis=1))
        if not len(missed):
            return None
        i = missed[np.lexsort((total_shortfall[missed], unbeaten[missed].sum(axis=1)))[0]]
        return slots[i], tuple(name for name, is_unbeaten in zip(self.scores, unbeaten[i], strict=True) if is_unbeaten)
