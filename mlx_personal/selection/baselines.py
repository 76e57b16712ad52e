"""The baseline policies of [Qin24 §4.1]: first in first out, random, and k-center. They do not use the scores."""

from __future__ import annotations

import numpy as np

from mlx_personal.selection.buffer import Buffer
from mlx_personal.selection.policies import PolicyDecision, SelectionCandidate


class FifoPolicy:
    """First in, first out: the buffer contains the newest dialogues."""

    def choose(self, candidate: SelectionCandidate, buffer: Buffer, rng: np.random.Generator) -> PolicyDecision:
        """Replace the oldest bin."""
        # Ids increase along the stream.
        oldest = min(buffer.bins, key=lambda b: b.dialogue_id)
        return PolicyDecision(oldest.slot, "it is newer than all bins", (oldest.slot,))


class RandomPolicy:
    """Reservoir sampling (algorithm R of [Vitter85]): all received dialogues are in the buffer with equal probability.

    Near-duplicates, which are rejected before a policy is called, count as received.
    """

    def choose(self, candidate: SelectionCandidate, buffer: Buffer, rng: np.random.Generator) -> PolicyDecision:
        """Draw a bin, or none with the probability that the candidate is not in the sample."""
        slot = int(rng.integers(candidate.position + 1))
        if slot >= buffer.capacity:
            return PolicyDecision(None, "it was not drawn")
        return PolicyDecision(slot, f"bin {slot} was drawn", (slot,))


class KCenterPolicy:
    """K-center over the embeddings in one pass: the bins are centers that are far apart from each other.

    Among the bins and the candidate, the two with the highest cosine similarity are found, and the one whose next
    neighbor is closer is dropped. So the two closest bins of a full buffer never become closer. The bound of the greedy
    algorithm of [Gonzalez85], at most twice the optimal radius, does not apply, because that algorithm sees all data at
    each step. Which variant [Qin24] used is unknown.
    """

    def choose(self, candidate: SelectionCandidate, buffer: Buffer, rng: np.random.Generator) -> PolicyDecision:
        """Drop one of the two closest among the bins and the candidate."""
        bins = buffer.bins
        vectors = np.stack([*(b.vector for b in bins), candidate.vector]).astype(np.float64)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -np.inf)
        pair = [int(i) for i in np.unravel_index(int(cosines.argmax()), cosines.shape)]
        nearest = float(cosines[pair[0], pair[1]])
        cosines[pair, pair[::-1]] = -np.inf
        # Of equal ones the later, so that a copy of a selected dialogue does not replace it.
        crowded = max(pair, key=lambda i: (cosines[i].max(), i))
        if crowded == len(bins):
            return PolicyDecision(
                None, f"a bin is as close to it as any two bins are to each other (cosine {nearest:.3f})"
            )
        slot = bins[crowded].slot
        return PolicyDecision(slot, f"bin {slot} was the closest to another dialogue (cosine {nearest:.3f})", (slot,))
