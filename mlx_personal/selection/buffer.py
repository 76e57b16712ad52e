"""The buffer of bins (paper 1, 3.1): what is kept, and the scores of what is kept.

All it derives (sums, fresh IDD) is a function of the bins in slot order, never of the order in which they came, so a
buffer made from stored bins goes on exactly like one that was never closed. It decides nothing: policies do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlx_personal.scoring import in_domain_dissimilarity, leave_one_out_dissimilarity

IDD_MODES: Final = ("fresh", "arrival")


@dataclass(frozen=True, eq=False)
class Bin:
    """One kept dialogue. `vector`: float32 [D] of unit norm; `arrived_idd`: its IDD when it was stored."""

    slot: int
    dialogue_id: int
    domain: str
    text: str
    vector: np.ndarray
    eoe: float
    dss: float
    arrived_idd: float


class Buffer:
    """`capacity` bins, numbered from 0.

    Args:
        capacity: how many bins there are.
        bins: those that are filled already, in any order.
        idd: `fresh` scores a bin's IDD leave-one-out against the present buffer, so that it falls as its domain fills;
            `arrival` keeps it as it was when the bin was stored.

    ValueError for a slot out of range or filled twice, or vectors of different lengths.
    """

    def __init__(self, capacity: int, bins: Iterable[Bin] = (), idd: str = "fresh"):
        if capacity < 1:
            raise ValueError("a buffer needs at least one bin")
        if idd not in IDD_MODES:
            raise ValueError(f"idd is one of {', '.join(IDD_MODES)}, not {idd!r}")
        self.capacity = capacity
        self.idd = idd
        self._bins: dict[int, Bin] = {}
        self._vectors = np.zeros((capacity, 0), np.float32)
        self._fresh = np.ones(capacity)
        self._sums: dict[str, tuple[np.ndarray, int]] = {}
        for bin_ in bins:
            if bin_.slot in self._bins:
                raise ValueError(f"bin {bin_.slot} is filled twice")
            self._place(bin_)
        for domain in {bin_.domain for bin_ in self._bins.values()}:
            self._refresh(domain)

    def __len__(self) -> int:
        return len(self._bins)

    @property
    def bins(self) -> list[Bin]:
        """The filled bins, by slot."""
        return [self._bins[slot] for slot in self._slots()]

    @property
    def free_slot(self) -> int | None:
        """The first empty bin; None when the buffer is full."""
        return next((slot for slot in range(self.capacity) if slot not in self._bins), None)

    def __getitem__(self, slot: int) -> Bin:
        return self._bins[slot]

    def put(self, bin_: Bin) -> None:
        """Fills the bin `bin_.slot`, or replaces what it holds. O(n D) for the n bins of the domains touched."""
        replaced = self._bins.get(bin_.slot)
        self._place(bin_)
        for domain in {bin_.domain, bin_.domain if replaced is None else replaced.domain}:
            self._refresh(domain)

    def idd_of(self, vector: np.ndarray, domain: str) -> float:
        """The IDD that a dialogue with this vector and domain would have now, 0..1. O(D)."""
        total, count = self._sums.get(domain, (None, 0))
        return in_domain_dissimilarity(vector, total, count)

    def fresh_idd(self) -> np.ndarray:
        """Each bin's IDD against the other bins of its domain as they are now, by slot; 1 for a lone one."""
        return self._fresh[self._slots()]

    def scores(self) -> np.ndarray:
        """EOE, DSS and IDD of each filled bin by slot, [n, 3]; IDD is fresh or as on arrival, as `idd` says."""
        bins = self.bins
        table = np.array([(b.eoe, b.dss, b.arrived_idd) for b in bins]).reshape(len(bins), 3)
        if self.idd == "fresh":
            table[:, 2] = self.fresh_idd()
        return table

    def nearest(self, vector: np.ndarray) -> tuple[int, float] | None:
        """The slot whose vector has the highest cosine with this one, and that cosine; None in an empty buffer."""
        slots = self._slots()
        if not slots:
            return None
        cosines = self._vectors[slots] @ vector
        best = int(cosines.argmax())
        return slots[best], float(cosines[best])

    def _slots(self) -> list[int]:
        return sorted(self._bins)

    def _place(self, bin_: Bin) -> None:
        if not 0 <= bin_.slot < self.capacity:
            raise ValueError(f"there is no bin {bin_.slot} in a buffer of {self.capacity}")
        if not self._bins:
            self._vectors = np.zeros((self.capacity, len(bin_.vector)), np.float32)
        if bin_.vector.shape != self._vectors.shape[1:] or not np.isfinite(bin_.vector).all():
            wanted, got = self._vectors.shape[1], list(bin_.vector.shape)
            raise ValueError(f"bin {bin_.slot} wants a finite vector of shape [{wanted}], not {got}")
        self._vectors[bin_.slot] = bin_.vector
        self._bins[bin_.slot] = bin_

    def _refresh(self, domain: str) -> None:
        """Sums a domain anew: adding and subtracting would drift, and differ after a restart in the last bits."""
        slots = [slot for slot in self._slots() if self._bins[slot].domain == domain]
        vectors = self._vectors[slots].astype(np.float64)
        self._sums[domain] = (vectors.sum(axis=0), len(slots))
        self._fresh[slots] = leave_one_out_dissimilarity(vectors, self._sums[domain][0])
