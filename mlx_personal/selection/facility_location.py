"""This project's policy for the memory: the buffer covers what the owner asks, as a library that is searched.

The bins S are chosen to maximize a facility location function, which is submodular, plus the richness of the bins:

    f(S) = sum over r in R of w(r) * max over j in S of s(r, j)  +  eoe_weight * mean over j in S of rank(j)

R is a random sample of the received dialogues, and the weight w(r) halves with each half-life (`StreamSample`); s is
the cosine of two vectors after the mean of R is subtracted from both, or 0 if it is negative, and rank(j) the share of
R with an EOE not above that of j. Without centering the vectors of any two dialogues lie within a few degrees of each
other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np

from mlx_personal.selection.buffer import Bin, Buffer
from mlx_personal.selection.policies import PolicyDecision, SelectionCandidate
from mlx_personal.selection.stream_sample import SampledDialogue, StreamSample, exact_vector

# Chosen on the first halves of six data sets: docs/concepts/selection.md.
DEFAULT_EOE_WEIGHT: Final = 0.4
DEFAULT_HALF_LIFE: Final = 300.0
DEFAULT_SAMPLE_SIZE: Final = 512
# Gains below this are rounding errors of float32, as of an exchange for an equal dialogue.
_MIN_GAIN: Final = 1e-6
# Centered vectors whose squared norm is below this share of the mean one before centering are equal to the mean.
_TOLERANCE: Final = 1e-10


class FacilityLocationPolicy:
    """Facility location in one pass: a dialogue replaces the bin whose exchange increases f most, if any does.

    This is the exchange step of StreamGreedy [Gomes10], on a sample of the stream as there. Its bound of f(S) >= 1/2 of
    the optimum assumes a stream that is repeated until no exchange helps, and therefore does not hold for one pass;
    algorithms with a bound for one pass, such as sieve-streaming [Badanidiyuru14], hold several buffers and never
    drop what they chose, so that they cannot follow an owner whose questions change.

    A dialogue costs O(n m + (n + m) D) for n sampled dialogues, m bins and D dimensions: dot products are kept, and the
    loss of each bin follows from the best and the second best bin of each sampled dialogue. In memory are
    8 (n m + (n + m) D) bytes.

    Args:
        eoe_weight: Weight of the mean rank of EOE; 0 for coverage alone.
        half_life: Number of dialogues after which the weight of a dialogue in the coverage is halved.
        sample_size: Maximum number of dialogues of the sample.
        seed: Random seed of the sample.
        sample: The dialogues of a stored sample. An empty one begins with the dialogues of the buffer.
        on_sampled: Called with each dialogue that joins the sample, to store it.

    Raises:
        ValueError: If a setting is out of its range.

    References:
        [Gomes10], [Badanidiyuru14], [Cohen07]
    """

    def __init__(
        self,
        eoe_weight: float = DEFAULT_EOE_WEIGHT,
        half_life: float = DEFAULT_HALF_LIFE,
        sample_size: int = DEFAULT_SAMPLE_SIZE,
        seed: int = 0,
        sample: Iterable[SampledDialogue] = (),
        on_sampled: Callable[[SampledDialogue], None] | None = None,
    ):
        if eoe_weight < 0:
            raise ValueError(f"eoe_weight is {eoe_weight}; it must be at least 0")
        if half_life <= 0:
            raise ValueError(f"half_life is {half_life}; it must be above 0")
        if sample_size < 1:
            raise ValueError(f"sample_size is {sample_size}; it must be at least 1")
        self._eoe_weight = eoe_weight
        self._sample = StreamSample(sample_size, half_life, seed, sample, on_sampled)
        self._similarities: _Similarities | None = None

    def choose(self, candidate: SelectionCandidate, buffer: Buffer, rng: np.random.Generator) -> PolicyDecision:
        """Replace the bin whose exchange for the candidate increases f most."""
        # Checked before anything changes.
        vector = exact_vector(candidate.vector)
        bins, sample = buffer.bins, self._sample
        similarities = self._update(bins, candidate)
        gains = exchange_gains(*similarities.compute(vector, sample.weights()))
        ranks = self._eoe_ranks(np.array([*(b.eoe for b in bins), candidate.eoe]))
        gains += self._eoe_weight * (ranks[-1] - ranks[:-1]) / len(bins)
        best = int(gains.argmax())
        slot, goal = bins[best].slot, f"coverage of {len(sample)} sampled dialogues and EOE together"
        if gains[best] <= _MIN_GAIN:
            return PolicyDecision(
                None, f"no exchange with a bin improves {goal} (nearest: bin {slot}, {gains[best]:.5f})"
            )
        beaten_slots = tuple(bins[int(i)].slot for i in np.flatnonzero(gains > _MIN_GAIN))
        return PolicyDecision(
            slot, f"the exchange with bin {slot} improves {goal} most (+{gains[best]:.5f})", beaten_slots
        )

    def _update(self, bins: Sequence[Bin], candidate: SelectionCandidate) -> _Similarities:
        """Offer the candidate to the sample, and before it bins that the sample lacks, and return the similarities.

        Bins are filled without this policy while there are free ones, and before it was chosen.
        """
        ids = np.array([b.dialogue_id for b in bins])
        joining = sorted((bins[int(i)] for i in np.flatnonzero(self._sample.accepts(ids))), key=lambda b: b.dialogue_id)
        offers: list[Bin | SelectionCandidate] = [*joining, candidate]
        positions = [self._sample.offer(o.dialogue_id, o.vector, o.eoe) for o in offers]
        if self._similarities is None:
            self._similarities = _Similarities(self._sample, len(bins))
        self._similarities.update_sample([position for position in positions if position is not None])
        self._similarities.update_bins(bins, ids)
        return self._similarities

    def _eoe_ranks(self, eoe: np.ndarray) -> np.ndarray:
        """Return the share of the sample with an EOE not above each of these, [N] -> [N]."""
        sampled = np.sort(self._sample.eoe[self._sample.is_filled])
        ranks: np.ndarray = np.searchsorted(sampled, eoe, side="right") / len(sampled)
        return ranks


class _Similarities:
    """The similarities of n sampled dialogues to m bins, of which few change from one dialogue to the next.

    Args:
        sample: The sample; later changes to it have to be reported.
        num_bins: Number m of bins.
    """

    def __init__(self, sample: StreamSample, num_bins: int):
        dimensions = sample.vectors.shape[1]
        self._sample = sample
        self._bin_ids = np.full(num_bins, -1)
        self._bins, self._bin_squares = np.zeros((num_bins, dimensions)), np.zeros(num_bins)
        self._squares = (sample.vectors**2).sum(axis=1)
        # The dot products less 1, [n, m]: the vectors of dialogues are nearly equal, so that float32 has more digits of
        # the difference.
        self._products_less_1 = np.full((sample.size, num_bins), -1, np.float32)
        self._centered = np.zeros((sample.size, num_bins), np.float32)

    def update_bins(self, bins: Sequence[Bin], ids: np.ndarray) -> None:
        """Replace the vectors of the bins that contain other dialogues than before; `ids` are their ids."""
        changed = np.flatnonzero(ids != self._bin_ids)
        if len(changed):
            vectors = np.array([exact_vector(bins[int(i)].vector) for i in changed])
            self._bins[changed], self._bin_squares[changed] = vectors, (vectors**2).sum(axis=1)
            self._products_less_1[:, changed] = self._sample.vectors @ vectors.T - 1
            self._bin_ids = ids

    def update_sample(self, positions: Sequence[int]) -> None:
        """Replace the vectors at these positions of the sample."""
        for position in positions:
            vector = self._sample.vectors[position]
            self._products_less_1[position] = self._bins @ vector - 1
            self._squares[position] = vector @ vector

    def compute(self, candidate: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the cosines of sampled dialogues with bins and with a candidate, the mean of R being subtracted.

        Args:
            candidate: Its vector, float64 [D].
            weights: Weight of each sampled dialogue, 0 at free positions, [n].

        Returns:
            The cosines with the bins, float32 [n, m], and with the candidate, [n], each divided by a factor of its row,
            and these factors multiplied by the weights, [n]. The first is overwritten by the next call.
        """
        total, count = self._sample.total, len(self._sample)
        with_total, with_candidate = np.stack([total, candidate]) @ self._sample.vectors.T
        with_mean, bins_with_mean, candidate_with_mean = (
            with_total / count,
            self._bins @ total / count,
            candidate @ total / count,
        )
        mean_square, tolerance = total @ total / count**2, _TOLERANCE * self._squares.sum() / count
        row_scales = _inverse_norms(self._squares - 2 * with_mean + mean_square, tolerance) * weights
        bin_scales = _inverse_norms(self._bin_squares - 2 * bins_with_mean + mean_square, tolerance)
        candidate_scale = _inverse_norms(candidate @ candidate - 2 * candidate_with_mean + mean_square, tolerance)
        centered = np.subtract(self._products_less_1, (bins_with_mean - 1).astype(np.float32), out=self._centered)
        centered -= (with_mean - mean_square).astype(np.float32)[:, None]
        centered *= bin_scales.astype(np.float32)
        of_candidate = (with_candidate - candidate_with_mean - (with_mean - mean_square)) * candidate_scale
        return centered, of_candidate, row_scales


def exchange_gains(in_bins: np.ndarray, in_candidate: np.ndarray, row_scales: np.ndarray) -> np.ndarray:
    """Return by how much each bin's exchange for a candidate increases the coverage.

    A sampled dialogue is covered by its best bin. If that is exchanged, the second best one or the candidate covers it.

    Args:
        in_bins: Cosine of each of the n sampled dialogues with each of the m bins, divided by a factor of its row;
            [n, m].
        in_candidate: Their cosines with the candidate, divided in the same way, [n].
        row_scales: The factor of each row multiplied by its weight in the coverage, at least 0, [n].

    Returns:
        float64 [m].
    """
    rows, best = np.arange(len(in_bins)), in_bins.argmax(axis=1)
    first = in_bins[rows, best]
    in_bins[rows, best] = -np.inf
    second = in_bins.max(axis=1)
    in_bins[rows, best] = first
    # Negative cosines cover nothing, and neither does the buffer without its only bin.
    covered, covered_by_second, covered_by_candidate = (
        np.maximum(cosines, 0) * row_scales for cosines in (first, second, in_candidate)
    )
    with_candidate = np.maximum(covered, covered_by_candidate)
    losses = np.bincount(
        best, with_candidate - np.maximum(covered_by_second, covered_by_candidate), minlength=in_bins.shape[1]
    )
    gains: np.ndarray = (with_candidate - covered).sum() - losses
    return gains


def exchange_gains_reference(
    sample: np.ndarray, bins: np.ndarray, candidate: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return what `exchange_gains` returns, by its definition: the coverage after each exchange, minus that before it.

    Args:
        sample: The vectors of the n sampled dialogues, [n, D].
        bins: Those of the m bins, [m, D].
        candidate: That of the candidate, [D].
        weights: Weight of each sampled dialogue in the coverage, [n].

    Returns:
        float64 [m].
    """
    mean = sample.astype(np.float64).mean(axis=0)
    tolerance = _TOLERANCE * float((sample.astype(np.float64) ** 2).sum()) / len(sample)

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a.astype(np.float64) - mean, b.astype(np.float64) - mean
        if a @ a <= tolerance or b @ b <= tolerance:
            return 0.0
        return max(0.0, float(a @ b) / float(np.sqrt((a @ a) * (b @ b))))

    def coverage(chosen: Sequence[np.ndarray]) -> float:
        return sum(w * max(similarity(r, j) for j in chosen) for r, w in zip(sample, weights, strict=True))

    before = coverage(list(bins))
    exchanged = [[*bins[:j], candidate, *bins[j + 1 :]] for j in range(len(bins))]
    return np.array([coverage(chosen) - before for chosen in exchanged])


def _inverse_norms(squares: np.ndarray, tolerance: float) -> np.ndarray:
    """Return 1 / sqrt of squared norms, and 0 for those that are 0 but for rounding errors."""
    is_positive = squares > tolerance
    inverse: np.ndarray = np.where(is_positive, 1 / np.sqrt(np.where(is_positive, squares, 1)), 0.0)
    return inverse
