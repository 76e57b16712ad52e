"""A random sample of the received dialogues that favors recent ones: what the owner asks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlx_personal.selection.draws import sampling_priorities

# Components of vectors are multiples of this. A product of two is then a multiple of its square, 2**-40, and sums of
# them up to 2**13 are exact in float64. So the dot product of two unit vectors, or of one with the sum of thousands,
# has the same bits in any order of summation, alone or in a matrix, and a profile that is closed and opened continues
# exactly.
_RESOLUTION: Final = 2.0**-20


@dataclass(frozen=True, eq=False)
class SampledDialogue:
    """A dialogue of the sample.

    Attributes:
        position: Its place in the sample, from 0.
        dialogue_id: Its id.
        vector: Its embedding, float32 [D] of unit norm.
        eoe: Its entropy of embedding.
    """

    position: int
    dialogue_id: int
    vector: np.ndarray
    eoe: float


class StreamSample:
    """A reservoir of dialogues, each kept with a probability that halves with each half-life of its age.

    Whether a dialogue is in the sample follows from its id and the seed, so that nothing is stored but the sample. Of a
    sample that lost dialogues, because an import was taken back, the free places are filled by later dialogues.

    Args:
        size: Maximum number of dialogues.
        half_life: Number of dialogues after which a dialogue is half as likely to be in the sample.
        seed: Random seed.
        entries: The dialogues of a stored sample.
        on_change: Called with each new dialogue of the sample, which replaces the one of its position, if any.

    Attributes:
        size: Maximum number of dialogues.
        ids: Id of the dialogue at each position, -1 for a free one, int64 [size].
        vectors: Their embeddings (`exact_vector`), zeros at free positions, float64 [size, D]; D is 0 before the first
            dialogue.
        total: Sum of the vectors, float64 [D].
        eoe: Their entropies, not a number at free positions, float64 [size].

    Raises:
        ValueError: If a position of an entry does not exist or is filled twice, or a vector is not finite or differs
            in length.
    """

    def __init__(
        self,
        size: int,
        half_life: float,
        seed: int,
        entries: Iterable[SampledDialogue] = (),
        on_change: Callable[[SampledDialogue], None] | None = None,
    ):
        self.size, self._half_life, self._seed = size, half_life, seed
        self.ids = np.full(size, -1, np.int64)
        self.vectors, self.total = np.zeros((size, 0)), np.zeros(0)
        self.eoe = np.full(size, np.nan)
        self._priorities = np.full(size, -np.inf)
        self._known: set[int] = set()
        self._on_change: Callable[[SampledDialogue], None] | None = None
        for entry in entries:
            if not 0 <= entry.position < size or self.ids[entry.position] >= 0:
                raise ValueError(f"position {entry.position} of a sample of {size} does not exist or is filled twice")
            self._put(entry)
        self._on_change = on_change

    def __len__(self) -> int:
        return len(self._known)

    @property
    def is_filled(self) -> np.ndarray:
        """Whether there is a dialogue at each position, bool [size]."""
        is_filled: np.ndarray = self.ids >= 0
        return is_filled

    def weights(self) -> np.ndarray:
        """Return the recency weight of each dialogue divided by its probability to be in the sample.

        The weight halves with each half-life. While all dialogues are in the sample, this is what remains. In a full
        sample recent dialogues are more frequent instead. There the dialogue of the lowest priority only says which
        priority the others exceeded, and has a weight of 0.

        Returns:
            float64 [size] with a sum of 1; 0 at free positions.

        References:
            [Cohen07]
        """
        # Relative to the newest dialogue, so that nothing overflows.
        log_weights = (self.ids - self.ids.max()) * (math.log(2) / self._half_life)
        if len(self) < self.size:
            weights = np.where(self.is_filled, np.exp(log_weights), 0.0)
        else:
            lowest = int(self._priorities.argmin())
            # A draw from the Gumbel distribution exceeds x with a probability of 1 - exp(-exp(-x)).
            draw = self._priorities[lowest] - self.ids * (math.log(2) / self._half_life)
            weights = np.exp(log_weights) / -np.expm1(-np.exp(np.minimum(-draw, 700)))
            weights[lowest] = 0.0 if self.size > 1 else 1.0
        normalized: np.ndarray = weights / weights.sum()
        return normalized

    def accepts(self, ids: np.ndarray) -> np.ndarray:
        """Return which dialogues `offer` would add, each of them alone.

        Args:
            ids: Ids of dialogues, int64 [N].

        Returns:
            bool [N].
        """
        # Free positions have a priority below all others.
        is_accepted: np.ndarray = sampling_priorities(ids, self._half_life, self._seed) > self._priorities.min()
        is_accepted[is_accepted] = [i not in self._known for i in ids[is_accepted].tolist()]
        return is_accepted

    def offer(self, dialogue_id: int, vector: np.ndarray, eoe: float) -> int | None:
        """Add a dialogue at a free position, or if its priority is higher than the lowest one, in the place of that.

        Args:
            dialogue_id: Its id.
            vector: Its embedding, float32 [D] of unit norm.
            eoe: Its entropy of embedding.

        Returns:
            Its position; None if it is not added, or was already in the sample.

        Raises:
            ValueError: If the vector is not finite or differs in length from the others.
        """
        if not self.accepts(np.array([dialogue_id]))[0]:
            return None
        position = int(self._priorities.argmin())
        self._put(SampledDialogue(position, dialogue_id, vector, eoe))
        return position

    def _put(self, entry: SampledDialogue) -> None:
        exact = exact_vector(entry.vector)
        if not self.vectors.shape[1]:
            self.vectors, self.total = np.zeros((self.size, len(exact))), np.zeros(len(exact))
        if exact.shape != self.vectors.shape[1:]:
            raise ValueError(f"the vector has shape {list(exact.shape)}, not [{self.vectors.shape[1]}]")
        self.total = self.total - self.vectors[entry.position] + exact
        self._known.discard(int(self.ids[entry.position]))
        self._known.add(entry.dialogue_id)
        ids = np.array([entry.dialogue_id])
        self._priorities[entry.position] = sampling_priorities(ids, self._half_life, self._seed)[0]
        self.ids[entry.position], self.vectors[entry.position] = entry.dialogue_id, exact
        self.eoe[entry.position] = entry.eoe
        if self._on_change is not None:
            self._on_change(entry)


def exact_vector(vector: np.ndarray) -> np.ndarray:
    """Return a vector as multiples of 2**-20, whose dot products are exact in float64.

    Args:
        vector: An embedding, float32 [D] of unit norm.

    Returns:
        float64 [D].

    Raises:
        ValueError: If it is not finite.
    """
    if not np.isfinite(vector).all():
        raise ValueError("a vector of a sampled dialogue is not finite")
    exact: np.ndarray = np.rint(vector.astype(np.float64) / _RESOLUTION) * _RESOLUTION
    return exact
