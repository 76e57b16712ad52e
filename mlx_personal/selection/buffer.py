"""The buffer of bins [Qin24 §3.1]: the selected dialogues and their scores.

All derived values (sums, fresh IDD) are functions of the bins in slot order, independent of the order of their arrival,
so that a buffer that is rebuilt from stored bins continues exactly like one that was never closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mlx_personal.scoring import in_domain_dissimilarity, leave_one_out_dissimilarity
from mlx_personal.selection.config import IDD_MODES


@dataclass(frozen=True, eq=False)
class Bin:
    """A selected dialogue.

    Attributes:
        slot: Number of the bin, from 0.
        dialogue_id: Id of the dialogue; ids increase along the stream.
        domain: Its dominant domain.
        text: Its text.
        vector: Its embedding, float32 [D] of unit norm.
        eoe: Entropy of embedding.
        dss: Domain-specific score.
        idd_on_arrival: In-domain dissimilarity when it was stored.
    """

    slot: int
    dialogue_id: int
    domain: str
    text: str
    vector: np.ndarray
    eoe: float
    dss: float
    idd_on_arrival: float


class Buffer:
    """A fixed number of bins, numbered from 0.

    Args:
        capacity: Number of bins.
        bins: The bins that are already filled, in any order.
        idd: How the IDD of a bin is computed: `fresh` computes it leave-one-out against the current buffer, so that it
            decreases as its domain fills; `arrival` keeps the IDD that it had when it was stored.

    Attributes:
        capacity: Number of bins.
        idd: How the IDD of a bin is computed.

    Raises:
        ValueError: If a slot is out of range or filled twice, or vectors differ in length.
    """

    def __init__(self, capacity: int, bins: Iterable[Bin] = (), idd: str = "fresh"):
        if capacity < 1:
            raise ValueError("a buffer needs at least one bin")
        if idd not in IDD_MODES:
            raise ValueError(f"idd is {idd!r}; it must be one of {', '.join(IDD_MODES)}")
        self.capacity = capacity
        self.idd = idd
        self._bins: dict[int, Bin] = {}
        self._vectors = np.zeros((capacity, 0), np.float32)
        self._fresh_idd = np.ones(capacity)
        self._sums: dict[str, tuple[np.ndarray, int]] = {}
        for bin_ in bins:
            if bin_.slot in self._bins:
                raise ValueError(f"bin {bin_.slot} is filled twice")
            self._insert(bin_)
        for domain in {bin_.domain for bin_ in self._bins.values()}:
            self._refresh(domain)

    def __len__(self) -> int:
        return len(self._bins)

    @property
    def bins(self) -> list[Bin]:
        """The filled bins by slot."""
        return [self._bins[slot] for slot in self._slots()]

    @property
    def free_slot(self) -> int | None:
        """The first empty bin; None if the buffer is full."""
        return next((slot for slot in range(self.capacity) if slot not in self._bins), None)

    def __getitem__(self, slot: int) -> Bin:
        return self._bins[slot]

    def put(self, bin_: Bin) -> None:
        """Fill the bin `bin_.slot`, or replace its dialogue, in O(n D) for the n bins of the domains that change.

        Args:
            bin_: The new bin.

        Raises:
            ValueError: If the slot is out of range, or the vector differs in length or is not finite.
        """
        replaced = self._bins.get(bin_.slot)
        self._insert(bin_)
        for domain in {bin_.domain, bin_.domain if replaced is None else replaced.domain}:
            self._refresh(domain)

    def idd_of(self, vector: np.ndarray, domain: str) -> float:
        """Return the IDD that a new dialogue would have, 0..1, in O(D).

        Args:
            vector: Its embedding, float32 [D] of unit norm.
            domain: Its dominant domain.
        """
        total, count = self._sums.get(domain, (None, 0))
        return in_domain_dissimilarity(vector, total, count)

    def fresh_idd(self) -> np.ndarray:
        """Return the IDD of each filled bin relative to the other bins of its domain, by slot; 1 for a single bin."""
        return self._fresh_idd[self._slots()]

    def scores(self) -> np.ndarray:
        """Return EOE, DSS and IDD of each filled bin by slot, [N, 3]."""
        bins = self.bins
        table = np.array([(b.eoe, b.dss, b.idd_on_arrival) for b in bins]).reshape(len(bins), 3)
        if self.idd == "fresh":
            table[:, 2] = self.fresh_idd()
        return table

    def nearest(self, vector: np.ndarray) -> tuple[int, float] | None:
        """Return the slot with the highest cosine similarity to a vector, and that cosine; None if all bins are empty.

        Args:
            vector: An embedding, float32 [D] of unit norm.
        """
        slots = self._slots()
        if not slots:
            return None
        cosines = self._vectors[slots] @ vector
        best = int(cosines.argmax())
        return slots[best], float(cosines[best])

    def _slots(self) -> list[int]:
        return sorted(self._bins)

    def _insert(self, bin_: Bin) -> None:
        if not 0 <= bin_.slot < self.capacity:
            raise ValueError(f"there is no bin {bin_.slot} in a buffer of {self.capacity}")
        if not self._bins:
            self._vectors = np.zeros((self.capacity, len(bin_.vector)), np.float32)
        if bin_.vector.shape != self._vectors.shape[1:] or not np.isfinite(bin_.vector).all():
            dimensions, shape = self._vectors.shape[1], list(bin_.vector.shape)
            raise ValueError(f"bin {bin_.slot} needs a finite vector of shape [{dimensions}], not {shape}")
        self._vectors[bin_.slot] = bin_.vector
        self._bins[bin_.slot] = bin_

    def _refresh(self, domain: str) -> None:
        # Computed from scratch: adding and subtracting would drift, and differ in the last bits after a restart.
        slots = [slot for slot in self._slots() if self._bins[slot].domain == domain]
        vectors = self._vectors[slots].astype(np.float64)
        self._sums[domain] = (vectors.sum(axis=0), len(slots))
        self._fresh_idd[slots] = leave_one_out_dissimilarity(vectors, self._sums[domain][0])
