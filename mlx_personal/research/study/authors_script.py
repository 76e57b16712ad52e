"""The selection of the authors' released scripts, as they behave: one score, compared the other way round.

The scripts (paper 1's first author; single-score ablation only) differ from the paper's text in five ways, all kept
here, because whoever ran them got these numbers:

- a bin gives way to a set that scores LOWER. For EOE and DSS that is the opposite of the paper's "higher is better" and
  looks like a sign error; for IDD, which the scripts compute as a mean cosine similarity, it keeps the dissimilar ones;
- only bins of the same dominant domain are looked at, and of them the one with the lowest score alone, though that
  keeps many that are above the new score;
- that step runs also right after a set was appended to a free place, so a set can be stored twice;
- scores are never computed again;
- at a checkpoint the buffer is written out and emptied, and training takes all that was written out so far.

What decides a score is the project's own (embedding, lexicons, tokens), not the scripts'.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlx_personal.selection import Candidate


@dataclass(frozen=True)
class _Stored:
    candidate: Candidate
    score: float


class ScriptSelection:
    """One stream's selection by one score.

    Args:
        score: `eoe`, `dss` or `idd`.
        capacity: places in the buffer, of all domains together.
    """

    def __init__(self, score: str, capacity: int):
        self._score = score
        self._capacity = capacity
        self._domains: dict[str, list[_Stored]] = {}
        self._written: list[int] = []

    def offer(self, candidate: Candidate) -> None:
        """The next set of the stream."""
        same = self._domains.setdefault(candidate.domain, [])
        new = _Stored(candidate, self._scored(candidate, same))
        lowest = min(range(len(same)), key=lambda i: same[i].score, default=None)
        if sum(map(len, self._domains.values())) < self._capacity:
            same.append(new)
        if lowest is not None and same[lowest].score > new.score:
            same[lowest] = new

    def checkpoint(self) -> list[int]:
        """The ids of all sets written out so far, those of the buffer last, in which an id may repeat; empties it."""
        self._written += [s.candidate.dialogue_id for stored in self._domains.values() for s in stored]
        self._domains = {}
        return list(self._written)

    def _scored(self, candidate: Candidate, same: list[_Stored]) -> float:
        if self._score == "eoe":
            return candidate.eoe
        if self._score == "dss":
            return candidate.dss
        # 0 in a domain with no bins, as the scripts have it.
        return float(np.mean([s.candidate.vector @ candidate.vector for s in same])) if same else 0.0
