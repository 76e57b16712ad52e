"""The policies that the paper compares its own with (4.1): first in first out, random, and k-center.

They look at no score. Like every policy they find what they need in the bins: dialogue ids rise along the stream.
"""

from __future__ import annotations

import numpy as np

from mlx_personal.selection.buffer import Buffer
from mlx_personal.selection.policies import Candidate, Choice


class FifoPolicy:
    """First in, first out: the dialogue that came first gives way. The buffer holds the newest ones."""

    def choose(self, candidate: Candidate, buffer: Buffer, rng: np.random.Generator) -> Choice:
        oldest = min(buffer.bins, key=lambda b: b.dialogue_id)
        return Choice(oldest.slot, "it is newer than all bins", (oldest.slot,))


class RandomPolicy:
    """Reservoir sampling (Vitter's algorithm R): at any time each dialogue received is in a bin with equal chance.

    Near-duplicates, which no policy sees, count as received.
    """

    def choose(self, candidate: Candidate, buffer: Buffer, rng: np.random.Generator) -> Choice:
        slot = int(rng.integers(candidate.position + 1))
        if slot >= buffer.capacity:
            return Choice(None, "it was not drawn")
        return Choice(slot, f"bin {slot} was drawn", (slot,))


class KCenterPolicy:
    """K-center over the embeddings: the bins are centers, as far apart as can be had in one pass.

    Of the bins and the candidate, the two that lie nearest to each other by cosine are found, and one of them goes: the
    one whose next neighbour is nearer too. So no two bins of a full buffer ever come to lie nearer to each other than
    the nearest two did before. That is all that is known of it: the bound of the greedy rule for core-sets, which is at
    most twice the best radius, is for a rule that sees all data at each step. Which variant the paper ran is unknown.
    """

    def choose(self, candidate: Candidate, buffer: Buffer, rng: np.random.Generator) -> Choice:
        bins = buffer.bins
        vectors = np.stack([*(b.vector for b in bins), candidate.vector]).astype(np.float64)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -np.inf)
        pair = [int(i) for i in np.unravel_index(int(cosines.argmax()), cosines.shape)]
        nearest = float(cosines[pair[0], pair[1]])
        cosines[pair, pair[::-1]] = -np.inf
        # Among equals the later one, so that a repetition of what is kept does not move it.
        crowded = max(pair, key=lambda i: (cosines[i].max(), i))
        if crowded == len(bins):
            return Choice(None, f"a bin lies as near to it as any two bins to each other (cosine {nearest:.3f})")
        slot = bins[crowded].slot
        return Choice(slot, f"bin {slot} lay nearest to another dialogue (cosine {nearest:.3f})", (slot,))
