"""The baseline policies and the weighted policy, each against a plain definition."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from mlx_personal.selection import (
    Buffer,
    FifoPolicy,
    KCenterPolicy,
    Policy,
    QualityPolicy,
    RandomPolicy,
    SelectionCandidate,
    Selector,
    WeightedPolicy,
)


def stream(count: int, seed: int = 0, dimensions: int = 3) -> list[SelectionCandidate]:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dimensions)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        SelectionCandidate(i, i, f"set number {i}", vectors[i], float(rng.random()), float(rng.random()), "ab"[i % 2])
        for i in range(count)
    ]


def selected_ids(policy: Policy, candidates: list[SelectionCandidate], bins: int = 4, seed: int = 0) -> list[int]:
    selector = Selector(Buffer(bins), policy, near_duplicate=1.0, seed=seed)
    for candidate in candidates:
        selector.offer(candidate)
    return [b.dialogue_id for b in selector.buffer.bins]


def test_fifo_holds_the_newest() -> None:
    assert sorted(selected_ids(FifoPolicy(), stream(11))) == [7, 8, 9, 10]


def test_random_keeps_every_dialogue_with_equal_probability() -> None:
    counts = np.zeros(12)
    for seed in range(300):
        counts[selected_ids(RandomPolicy(), stream(12), seed=seed)] += 1
    # Each is kept 300 * 4 / 12 = 100 times, with a standard deviation of 8.2.
    assert abs(counts - 100).max() < 4 * 8.2


@pytest.mark.parametrize("seed", range(5))
def test_k_center_never_brings_its_centers_nearer_and_spreads_like_core_sets(seed: int) -> None:
    candidates = stream(60, seed)
    vectors = np.stack([c.vector for c in candidates])

    def min_distance(ids: list[int]) -> float:
        return min(1 - float(vectors[a] @ vectors[b]) for a, b in itertools.combinations(ids, 2))

    selector = Selector(Buffer(4), KCenterPolicy(), near_duplicate=1.0)
    before = 0.0
    for candidate in candidates:
        selector.offer(candidate)
        ids = [b.dialogue_id for b in selector.buffer.bins]
        if len(ids) == 4:
            assert min_distance(ids) >= before - 1e-6
            before = min_distance(ids)
    # Greedy core-set selection over the whole stream: each time the one that lies farthest from the selected ones.
    greedy = [0]
    while len(greedy) < 4:
        greedy.append(int((vectors @ vectors[greedy].T).max(axis=1).argmin()))
    assert min_distance(ids) >= 0.5 * min_distance(greedy)


def test_k_center_is_not_changed_by_a_repetition() -> None:
    candidates = stream(4)
    again = [SelectionCandidate(4, 4, "again", candidates[2].vector, 0.5, 0.5, "a")]
    assert selected_ids(KCenterPolicy(), candidates + again) == [0, 1, 2, 3]


def test_k_center_drops_the_more_crowded_of_the_nearest_two() -> None:
    angles = np.deg2rad([0, 10, 24, 180, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    candidates = [SelectionCandidate(i, i, f"number {i}", v, 0.5, 0.5, "a") for i, v in enumerate(vectors)]
    # 0 and 10 degrees are nearest; 10 has 24 next to it.
    assert selected_ids(KCenterPolicy(), candidates) == [0, 4, 2, 3]


@pytest.mark.parametrize("name", ["eoe", "dss"])
def test_one_score_alone_decides(name: str) -> None:
    candidates = stream(40)
    buffer = [(getattr(c, name), c.dialogue_id) for c in candidates[:4]]
    for c in candidates[4:]:
        lower = [i for i, (score, _) in enumerate(buffer) if score < getattr(c, name)]
        if lower:
            buffer[int(np.random.default_rng([7, c.position]).choice(lower))] = (getattr(c, name), c.dialogue_id)
    assert selected_ids(QualityPolicy([name]), candidates, seed=7) == [i for _, i in buffer]


def test_idd_alone_is_compared_with_the_current_bins() -> None:
    vectors = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    candidates = [SelectionCandidate(i, i, f"number {i}", v, 0.9 - i / 10, 0.0, "a") for i, v in enumerate(vectors)]
    # The first two are equal (0.5 each), the third is different (1.0); the fourth has 1.0 and beats only the two.
    assert selected_ids(QualityPolicy(["idd"]), candidates, bins=3) in ([3, 1, 2], [0, 3, 2])


def test_without_domain_words_dss_alone_replaces_nothing() -> None:
    candidates = [SelectionCandidate(i, i, f"number {i}", v.vector, 0.5, 0.0, "a") for i, v in enumerate(stream(9))]
    assert selected_ids(QualityPolicy(["dss"]), candidates) == [0, 1, 2, 3]


@pytest.mark.parametrize("scores", [[], ["rouge"]])
def test_unknown_scores_are_refused(scores: list[str]) -> None:
    with pytest.raises(ValueError, match="eoe, dss, idd"):
        QualityPolicy(scores)


# The weighted policy


def test_weighted_ranks_by_the_fraction_of_the_stream_below() -> None:
    policy = WeightedPolicy(1.0, past_entropies=[0.1, 0.2, 0.3, 0.4])
    plain = WeightedPolicy(0.0, past_entropies=[0.1])
    eoe, ids = np.array([0.05, 0.2, 0.35, 0.9]), np.arange(4)
    shares = np.exp(policy.priorities(ids, eoe) - plain.priorities(ids, eoe))
    assert shares == pytest.approx([1 / 5, 3 / 5, 4 / 5, 1])


def test_weighted_keeps_a_dialogue_as_often_as_proportional_sampling() -> None:
    policy = WeightedPolicy(weight=2.0, past_entropies=[0.3, 0.6, 0.9])
    eoe = np.array([0.3, 0.6, 0.9])
    first = np.zeros(3)
    for start in range(0, 30_000, 3):
        first[policy.priorities(np.arange(start, start + 3), eoe).argmax()] += 1
    expected = np.array([2, 3, 4]) ** 2 / 29 * 10_000
    assert ((first - expected) ** 2 / expected).sum() < 13.8  # a correct sampler exceeds it once in a thousand


@pytest.mark.parametrize("half_life", [math.inf, 20.0])
def test_weighted_without_weight_holds_the_highest_draws(half_life: float) -> None:
    policy, candidates = WeightedPolicy(0.0, half_life), stream(50)
    expected = set(np.argsort(-policy.priorities(np.arange(50), np.ones(50)))[:4].tolist())
    assert set(selected_ids(policy, candidates)) == expected
    shuffled = [candidates[i] for i in np.random.default_rng(1).permutation(50)]
    assert set(selected_ids(WeightedPolicy(0.0, half_life), shuffled)) == expected


def test_weighted_draws_differently_for_another_seed() -> None:
    assert len({tuple(selected_ids(WeightedPolicy(seed=seed), stream(50))) for seed in range(5)}) == 5
    assert selected_ids(WeightedPolicy(seed=3), stream(50)) == selected_ids(WeightedPolicy(seed=3), stream(50))


def test_weighted_keeps_a_uniform_sample_of_the_entropies() -> None:
    policy = WeightedPolicy(1.0, seed=5, past_entropies=np.linspace(0, 1, 20_001))
    plain = WeightedPolicy(0.0, seed=5, past_entropies=[0.0])
    half = np.exp(policy.priorities(np.zeros(1, int), np.array([0.5])) - plain.priorities(np.zeros(1, int), np.ones(1)))
    assert half == pytest.approx([0.5], abs=0.09)  # four standard errors of 512 draws


def test_weighted_favors_high_entropies_and_with_a_half_life_new_dialogues() -> None:
    high, new, plain = [], [], []
    for seed in range(8):
        candidates = stream(100, seed)
        shifted = [SelectionCandidate(c.dialogue_id + 100 * seed, *list(vars(c).values())[1:]) for c in candidates]
        eoe = {c.dialogue_id: c.eoe for c in shifted}
        high += [eoe[i] for i in selected_ids(WeightedPolicy(8.0), shifted)]
        new += [i % 100 for i in selected_ids(WeightedPolicy(0.0, half_life=10.0), shifted)]
        plain += [i % 100 for i in selected_ids(WeightedPolicy(0.0), shifted)]
    assert np.mean(high) > 0.7
    assert np.mean(new) > 75 > np.mean(plain) + 10


@pytest.mark.parametrize("settings", [{"weight": -1.0}, {"half_life": 0.0}])
def test_weighted_refuses_invalid_settings(settings: dict[str, Any]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be"):
        WeightedPolicy(**settings)
