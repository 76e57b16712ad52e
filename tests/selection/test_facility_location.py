"""The policy facility-location against its definition, its sample against its distribution; both after a restart."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.selection import (
    Bin,
    Buffer,
    FacilityLocationPolicy,
    SampledDialogue,
    SelectionCandidate,
    Selector,
    explain,
)
from mlx_personal.selection.facility_location import exchange_gains, exchange_gains_reference
from mlx_personal.selection.stream_sample import StreamSample, exact_vector

COMMON = np.random.default_rng(0).standard_normal(8) * 5  # what the vectors of all dialogues share


def stream(count: int, seed: int = 0, spread: float = 1.0) -> list[SelectionCandidate]:
    rng = np.random.default_rng(seed)
    vectors = COMMON + spread * rng.standard_normal((count, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return [
        SelectionCandidate(i, i, f"dialogue {i}", vectors[i], float(rng.random()), 0.1, "food") for i in range(count)
    ]


def as_bin(candidate: SelectionCandidate, slot: int) -> Bin:
    return Bin(slot, candidate.dialogue_id, "food", candidate.text, candidate.vector, candidate.eoe, 0.1, 0.5)


def selector_of(policy: FacilityLocationPolicy, bins: int = 4, filled: tuple[Bin, ...] = ()) -> Selector:
    return Selector(Buffer(bins, filled), policy, near_duplicate=1.0)


def gains_by_definition(
    candidate: SelectionCandidate,
    bins: list[Bin],
    sample: list[SelectionCandidate],
    eoe_weight: float,
    half_life: float,
) -> np.ndarray:
    """Return by how much each exchange increases f, for a sample of the whole stream."""
    weights = np.array([0.5 ** ((sample[-1].dialogue_id - r.dialogue_id) / half_life) for r in sample])
    coverage = exchange_gains_reference(
        np.array([r.vector for r in sample]),
        np.array([b.vector for b in bins]),
        candidate.vector,
        weights / weights.sum(),
    )

    def rank(eoe: float) -> float:
        return float(np.mean([r.eoe <= eoe for r in sample]))

    richness = [eoe_weight * (rank(candidate.eoe) - rank(b.eoe)) / len(bins) for b in bins]
    return np.asarray(coverage + richness)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.4, 3.0]),
    st.sampled_from([5.0, 40.0, math.inf]),
    st.sampled_from([0.01, 1.0, 20.0]),
)
@settings(max_examples=20, deadline=None)
def test_each_exchange_is_the_best_one_by_definition(
    seed: int, bins: int, eoe_weight: float, half_life: float, spread: float
) -> None:
    candidates = stream(bins + 8, seed, spread)
    selector = selector_of(FacilityLocationPolicy(eoe_weight, half_life, sample_size=64), bins)
    for number, candidate in enumerate(candidates):
        before = selector.buffer.bins
        decision = selector.offer(candidate)
        if decision.action == "stored":
            continue
        gains = gains_by_definition(candidate, before, candidates[: number + 1], eoe_weight, half_life)
        # Vectors are rounded to multiples of 2**-20, which is most of the difference of those of the smallest spread.
        tolerance = 1e-5 / spread
        assert (0.0 if decision.slot is None else gains[decision.slot]) == pytest.approx(
            max(gains.max(), 0.0), abs=tolerance
        )
        if gains.max() > tolerance:
            assert decision.action == "replaced"


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_gains_equal_the_differences_of_the_coverage(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    # Coarse values, so that bins are often equally near.
    in_bins, in_candidate = rng.integers(-2, 4, (rows, columns)) / 4, rng.integers(-2, 4, rows) / 4
    weights = rng.random(rows)

    def coverage(table: np.ndarray) -> float:
        return float((weights * np.maximum(table, 0).max(axis=1)).sum())

    expected = []
    for column in range(columns):
        exchanged = in_bins.copy()
        exchanged[:, column] = in_candidate
        expected.append(coverage(exchanged) - coverage(in_bins))
    before = in_bins.copy()
    assert exchange_gains(in_bins, in_candidate, weights) == pytest.approx(expected, abs=1e-12)
    assert np.array_equal(in_bins, before)


def test_a_buffer_covers_topics_that_fifo_forgets() -> None:
    """Three topics come one after the other; each keeps a bin, and so does the last one."""
    rng = np.random.default_rng(3)
    topics = np.repeat([0, 1, 2], 20)
    vectors = COMMON + 4 * np.eye(8)[topics] + 0.2 * rng.standard_normal((60, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    selector = selector_of(FacilityLocationPolicy(eoe_weight=0.0), bins=3)
    for i, vector in enumerate(vectors.astype(np.float32)):
        selector.offer(SelectionCandidate(i, i, f"dialogue {i}", vector, 0.5, 0.1, "food"))
    assert {int(topics[b.dialogue_id]) for b in selector.buffer.bins} == {0, 1, 2}


def test_rich_dialogues_are_preferred_by_their_weight() -> None:
    eoe = []
    for weight in (0.0, 0.4, 100.0):
        selector = selector_of(FacilityLocationPolicy(weight), bins=6)
        for candidate in stream(80):
            selector.offer(candidate)
        eoe.append(np.mean([b.eoe for b in selector.buffer.bins]))
    assert eoe[0] < eoe[1] < eoe[2]
    best = sorted((c.eoe for c in stream(80)), reverse=True)[:6]
    assert eoe[2] == pytest.approx(np.mean(best))


@pytest.mark.parametrize("cut", [3, 4, 5, 23, 40])
@pytest.mark.parametrize("size", [7, 64])
def test_a_restart_changes_no_decision(cut: int, size: int) -> None:
    candidates = stream(60, seed=2)
    stored: dict[int, SampledDialogue] = {}

    def policy(entries: list[SampledDialogue]) -> FacilityLocationPolicy:
        return FacilityLocationPolicy(
            half_life=20.0,
            sample_size=size,
            seed=5,
            sample=entries,
            on_sampled=lambda entry: stored.update({entry.position: entry}),
        )

    whole = selector_of(policy([]))
    expected = [whole.offer(candidate) for candidate in candidates]
    stored.clear()
    selector = selector_of(policy([]))
    decisions = [selector.offer(candidate) for candidate in candidates[:cut]]
    bins = tuple(dataclasses.replace(b, vector=b.vector.copy()) for b in selector.buffer.bins)
    entries = [stored[position] for position in sorted(stored)]
    selector = selector_of(policy(entries), filled=bins)
    assert decisions + [selector.offer(candidate) for candidate in candidates[cut:]] == expected


def test_products_have_the_same_bits_alone_and_in_a_matrix() -> None:
    vectors = np.array([exact_vector(c.vector) for c in stream(400, spread=0.1)])
    matrix = vectors @ vectors.T
    assert all(np.array_equal(vectors @ v, row) for v, row in zip(vectors, matrix, strict=True))
    assert [math.fsum(vectors[0] * v) for v in vectors[:9]] == matrix[0, :9].tolist()


@pytest.mark.parametrize("spread", [0.0, 1e-9])
def test_equal_vectors_leave_the_choice_to_eoe(spread: float) -> None:
    candidates = stream(30, spread=spread)
    covering = selector_of(FacilityLocationPolicy(eoe_weight=0.0))
    assert {covering.offer(c).action for c in candidates[4:]} == {"stored", "kept-out"}
    rich = selector_of(FacilityLocationPolicy(eoe_weight=0.4))
    for candidate in candidates:
        rich.offer(candidate)
    assert sorted(b.eoe for b in rich.buffer.bins) == sorted(c.eoe for c in candidates)[-4:]


def test_a_repetition_replaces_nothing_without_a_weight_of_eoe() -> None:
    selector, candidates = selector_of(FacilityLocationPolicy(eoe_weight=0.0)), stream(4)
    for candidate in candidates:
        selector.offer(candidate)
    again = dataclasses.replace(candidates[2], dialogue_id=4, position=4, text="again")
    assert selector.offer(again).action == "kept-out"


def test_vectors_of_zero_are_an_ordinary_case() -> None:
    candidates = [dataclasses.replace(c, vector=np.zeros(8, np.float32)) for c in stream(12)]
    selector = selector_of(FacilityLocationPolicy(eoe_weight=0.0))
    assert [selector.offer(c).action for c in candidates] == ["stored"] * 4 + ["kept-out"] * 8


def test_vectors_that_are_not_finite_are_refused_and_change_nothing() -> None:
    selector = selector_of(FacilityLocationPolicy())
    *candidates, last = stream(9)
    for candidate in candidates:
        selector.offer(candidate)
    before = selector.buffer.bins
    with pytest.raises(ValueError, match="not finite"):
        selector.offer(dataclasses.replace(last, vector=np.full(8, np.nan, np.float32)))
    assert selector.buffer.bins == before
    selector.offer(last)


def test_a_decision_is_explained() -> None:
    selector = selector_of(FacilityLocationPolicy(eoe_weight=0.0))
    decisions = [selector.offer(candidate) for candidate in stream(20)]
    replaced = next(d for d in decisions if d.action == "replaced")
    rejected = next(d for d in decisions if d.action == "kept-out")
    assert f"in place of dialogue {replaced.replaced_id}: " in explain(replaced)
    assert replaced.slot in replaced.beaten_slots
    assert "sampled dialogues" in explain(replaced) and "sampled dialogues" in explain(rejected)


@pytest.mark.parametrize("changes", [{"eoe_weight": -1.0}, {"half_life": 0.0}, {"sample_size": 0}])
def test_invalid_settings_are_refused(changes: dict[str, Any]) -> None:
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be"):
        FacilityLocationPolicy(**changes)


# The sample


def sampled(count: int, size: int, half_life: float, seed: int) -> StreamSample:
    sample = StreamSample(size, half_life, seed)
    for number in range(count):
        sample.offer(number, np.ones(1, np.float32), 0.5)
    return sample


def test_the_sample_favors_recent_dialogues_by_the_half_life() -> None:
    counts = np.zeros(60)
    for seed in range(150):
        counts[sampled(60, 2, 10.0, seed).ids] += 1
    expected = 0.5 ** (np.arange(59, -1, -1) / 10.0)
    # Nearly proportional for a sample of two of sixty; the newest ten have half of the weight.
    assert counts[-10:].sum() / counts.sum() == pytest.approx(expected[-10:].sum() / expected.sum(), abs=0.08)
    assert counts[:30].sum() / counts.sum() == pytest.approx(expected[:30].sum() / expected.sum(), abs=0.08)


@pytest.mark.parametrize("size", [20, 81])
def test_weighted_means_of_samples_estimate_those_of_the_stream(size: int) -> None:
    """The half-life counts once: in the sample, in the weights, or a part of it in each."""
    weights = 0.5 ** (np.arange(79, -1, -1) / 25.0)
    true_mean = float(weights @ np.arange(80.0) / weights.sum())
    estimates = [float(s.weights() @ np.maximum(s.ids, 0)) for s in (sampled(80, size, 25.0, i) for i in range(50))]
    assert np.mean(estimates) == pytest.approx(true_mean, abs=float(4 * np.std(estimates) / math.sqrt(50) + 1e-9))
    assert (np.std(estimates) < 1e-9) == (size == 81)


def test_a_sample_that_lost_dialogues_is_filled_by_later_ones() -> None:
    full = sampled(50, 8, math.inf, 0)
    kept = [SampledDialogue(p, int(full.ids[p]), np.ones(1, np.float32), 0.5) for p in range(8) if p not in (2, 5)]
    sample = StreamSample(8, math.inf, 0, kept)
    assert (len(sample), sample.weights()[2], sample.weights().sum()) == (6, 0, pytest.approx(1))
    assert [sample.offer(number, np.ones(1, np.float32), 0.5) for number in (50, 51)] == [2, 5]
    assert sample.offer(51, np.ones(1, np.float32), 0.5) is None


def test_a_pause_of_many_half_lives_is_no_overflow() -> None:
    sample = sampled(8, 8, 10.0, 0)
    for number in (10**6, 10**6 + 1, 10**12):
        sample.offer(number, np.ones(1, np.float32), 0.5)
        weights = sample.weights()
        assert weights.sum() == pytest.approx(1)
        assert weights[sample.ids >= number - 1].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("position", "vector", "complaint"),
    [(8, np.ones(2), "does not exist"), (0, np.ones(2), "filled twice"), (1, np.ones(3), r"shape \[3\], not \[2\]")],
)
def test_a_damaged_sample_is_refused(position: int, vector: np.ndarray, complaint: str) -> None:
    entries = [SampledDialogue(0, 1, np.ones(2, np.float32), 0.5), SampledDialogue(position, 2, vector, 0.5)]
    with pytest.raises(ValueError, match=complaint):
        StreamSample(8, 10.0, 0, entries)
