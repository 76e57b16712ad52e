"""The selection of the released scripts of [Qin24], reproduced as they behave.

The first author's scripts cover the ablation with a single score. They differ from the text of the paper in five ways,
which are all reproduced here, because results obtained with the scripts include them:

- A new dialogue replaces one that scores HIGHER. For EOE and DSS this is the opposite of the paper's "higher is
  better" and looks like a sign error. IDD, which the scripts compute as a mean cosine similarity, keeps dissimilar
  dialogues, as intended.
- Only bins of the same dominant domain are considered, and of these only the one with the lowest score, although the
  comparison keeps many bins that score higher than the new dialogue.
- The replacement also runs right after a dialogue was appended to a free bin, so a dialogue can be stored twice.
- Scores are not updated when the buffer changes.
- At a checkpoint the buffer is written out and emptied; training uses everything written out so far.

The scores themselves (embedding, lexicons, tokens) are this project's, not the scripts'.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlx_personal.selection import SelectionCandidate


@dataclass(frozen=True)
class _StoredCandidate:
    candidate: SelectionCandidate
    score: float


class AuthorsScriptSelection:
    """The selection from one stream by one score.

    Args:
        score: `eoe`, `dss` or `idd`.
        capacity: Bins of the buffer, shared by all domains.
    """

    def __init__(self, score: str, capacity: int):
        self._score_name = score
        self._capacity = capacity
        self._domains: dict[str, list[_StoredCandidate]] = {}
        self._written: list[int] = []

    def offer(self, candidate: SelectionCandidate) -> None:
        """Process the next dialogue of the stream."""
        same_domain = self._domains.setdefault(candidate.domain, [])
        new = _StoredCandidate(candidate, self._score(candidate, same_domain))
        lowest = min(range(len(same_domain)), key=lambda i: same_domain[i].score, default=None)
        if sum(map(len, self._domains.values())) < self._capacity:
            same_domain.append(new)
        if lowest is not None and same_domain[lowest].score > new.score:
            same_domain[lowest] = new

    def checkpoint(self) -> list[int]:
        """Write out and empty the buffer; return the ids of all dialogues written out so far, which may repeat."""
        self._written += [s.candidate.dialogue_id for stored in self._domains.values() for s in stored]
        self._domains = {}
        return list(self._written)

    def _score(self, candidate: SelectionCandidate, same_domain: list[_StoredCandidate]) -> float:
        if self._score_name == "eoe":
            return candidate.eoe
        if self._score_name == "dss":
            return candidate.dss
        # The scripts score the first dialogue of a domain 0.
        return float(np.mean([s.candidate.vector @ candidate.vector for s in same_domain])) if same_domain else 0.0
