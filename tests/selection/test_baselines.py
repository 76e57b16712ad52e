"""The policies that the paper's is compared with, each against a plain definition."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from mlx_personal.selection import (
    Buffer,
    Candidate,
    FifoPolicy,
    KCenterPolicy,
    QualityPolicy,
    RandomPolicy,
    Selector,
    WeightedPolicy,
)


def stream(count: Any, seed: Any = 0, dimensions: Any = 3) -> Any:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dimensions)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        Candidate(i, i, f"set number {i}", vectors[i], float(rng.random()), float(rng.random()), "ab"[i % 2])
        for i in range(count)
    ]


def kept(policy: Any, candidates: Any, bins: Any = 4, seed: Any = 0) -> Any:
    selector = Selector(Buffer(bins), policy, near_duplicate=1.0, seed=seed)
    for candidate in candidates:
        selector.offer(candidate)
    return [b.dialogue_id for b in selector.buffer.bins]


def test_fifo_holds_the_newest() -> None:
    assert sorted(kept(FifoPolicy(), stream(11))) == [7, 8, 9, 10]


def test_random_keeps_every_set_with_the_same_chance() -> None:
    counts = np.zeros(12)
    for seed in range(600):
        counts[kept(RandomPolicy(), stream(12), seed=seed)] += 1
    # Each is kept 600 * 4 / 12 = 200 times, give or take 11.5.
    assert abs(counts - 200).max() < 4 * 11.5


@pytest.mark.parametrize("seed", range(5))
def test_k_center_never_lets_its_centers_come_nearer_and_spreads_like_core_sets(seed: Any) -> None:
    candidates = stream(60, seed)
    vectors = np.stack([c.vector for c in candidates])

    def apart(ids: Any) -> Any:
        return min(1 - float(vectors[a] @ vectors[b]) for a, b in itertools.combinations(ids, 2))

    selector = Selector(Buffer(4), KCenterPolicy(), near_duplicate=1.0)
    before = 0.0
    for candidate in candidates:
        selector.offer(candidate)
        ids = [b.dialogue_id for b in selector.buffer.bins]
        if len(ids) == 4:
            assert apart(ids) >= before - 1e-6
            before = apart(ids)
    # Core-set selection with the whole stream at hand: each time the one that lies farthest from those taken.
    greedy = [0]
    while len(greedy) < 4:
        greedy.append(int((vectors @ vectors[greedy].T).max(axis=1).argmin()))
    assert apart(ids) >= 0.5 * apart(greedy)


def test_k_center_is_not_moved_by_a_repetition() -> None:
    candidates = stream(4)
    again = [Candidate(4, 4, "again", candidates[2].vector, 0.5, 0.5, "a")]
    assert kept(KCenterPolicy(), candidates + again) == [0, 1, 2, 3]


def test_k_center_drops_the_more_crowded_of_the_nearest_two() -> None:
    angles = np.deg2rad([0, 10, 24, 180, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    candidates = [Candidate(i, i, f"number {i}", v, 0.5, 0.5, "a") for i, v in enumerate(vectors)]
    # 0 and 10 degrees are nearest; 10 has 24 next to it.
    assert kept(KCenterPolicy(), candidates) == [0, 4, 2, 3]


@pytest.mark.parametrize("name", ["eoe", "dss"])
def test_one_score_alone_decides(name: str) -> None:
    candidates = stream(40)
    buffer = [(getattr(c, name), c.dialogue_id) for c in candidates[:4]]
    for c in candidates[4:]:
        lower = [i for i, (score, _) in enumerate(buffer) if score < getattr(c, name)]
        if lower:
            buffer[int(np.random.default_rng([7, c.position]).choice(lower))] = (getattr(c, name), c.dialogue_id)
    assert kept(QualityPolicy([name]), candidates, seed=7) == [i for _, i in buffer]


def test_dissimilarity_alone_compares_with_bins_as_they_are_now() -> None:
    vectors = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    candidates = [Candidate(i, i, f"number {i}", v, 0.9 - i / 10, 0.0, "a") for i, v in enumerate(vectors)]
    # The first two are alike (0.5 each), the third stands apart (1.0); the fourth has 1.0 and beats the two alone.
    assert kept(QualityPolicy(["idd"]), candidates, bins=3) in ([3, 1, 2], [0, 3, 2])


def test_where_no_domain_is_hit_dss_alone_keeps_what_it_has() -> None:
    candidates = [Candidate(i, i, f"number {i}", v.vector, 0.5, 0.0, "a") for i, v in enumerate(stream(9))]
    assert kept(QualityPolicy(["dss"]), candidates) == [0, 1, 2, 3]


@pytest.mark.parametrize("scores", [[], ["rouge"]])
def test_unknown_scores_are_refused(scores: Any) -> None:
    with pytest.raises(ValueError, match="eoe, dss, idd"):
        QualityPolicy(scores)


# This project's own policy


def test_weighted_ranks_by_the_share_of_the_stream_below() -> None:
    policy = WeightedPolicy(1.0, seen=[0.1, 0.2, 0.3, 0.4])
    plain = WeightedPolicy(0.0, seen=[0.1])
    eoe, ids = np.array([0.05, 0.2, 0.35, 0.9]), np.arange(4)
    shares = np.exp(policy.priorities(ids, eoe) - plain.priorities(ids, eoe))
    assert shares == pytest.approx([1 / 5, 3 / 5, 4 / 5, 1])


def test_weighted_keeps_a_set_as_often_as_sampling_in_proportion_does() -> None:
    policy = WeightedPolicy(weight=2.0, seen=[0.3, 0.6, 0.9])
    eoe = np.array([0.3, 0.6, 0.9])
    first = np.zeros(3)
    for start in range(0, 30_000, 3):
        first[policy.priorities(np.arange(start, start + 3), eoe).argmax()] += 1
    expected = np.array([2, 3, 4]) ** 2 / 29 * 10_000
    assert ((first - expected) ** 2 / expected).sum() < 13.8  # passed by chance but once in a thousand


@pytest.mark.parametrize("half_life", [math.inf, 20.0])
def test_weighted_holds_the_highest_priorities_where_entropies_do_not_decide(half_life: Any) -> None:
    policy, candidates = WeightedPolicy(0.0, half_life), stream(50)
    wanted = set(np.argsort(-policy.priorities(np.arange(50), np.ones(50)))[:4].tolist())
    assert set(kept(policy, candidates)) == wanted
    shuffled = [candidates[i] for i in np.random.default_rng(1).permutation(50)]
    assert set(kept(WeightedPolicy(0.0, half_life), shuffled)) == wanted


def test_weighted_draws_anew_for_another_seed() -> None:
    assert len({tuple(kept(WeightedPolicy(seed=seed), stream(50))) for seed in range(5)}) == 5
    assert kept(WeightedPolicy(seed=3), stream(50)) == kept(WeightedPolicy(seed=3), stream(50))


def test_weighted_remembers_a_fair_sample_of_a_long_stream() -> None:
    policy = WeightedPolicy(1.0, seed=5, seen=np.linspace(0, 1, 20_001))
    plain = WeightedPolicy(0.0, seed=5, seen=[0.0])
    half = np.exp(policy.priorities(np.zeros(1, int), np.array([0.5])) - plain.priorities(np.zeros(1, int), np.ones(1)))
    assert half == pytest.approx([0.5], abs=0.09)  # four standard errors of 512 draws


def test_weighted_prefers_the_rich_and_with_age_the_new() -> None:
    rich, new, plain = [], [], []
    for seed in range(20):
        candidates = stream(100, seed)
        shifted = [Candidate(c.dialogue_id + 100 * seed, *list(vars(c).values())[1:]) for c in candidates]
        eoe = {c.dialogue_id: c.eoe for c in shifted}
        rich += [eoe[i] for i in kept(WeightedPolicy(8.0), shifted)]
        new += [i % 100 for i in kept(WeightedPolicy(0.0, half_life=10.0), shifted)]
        plain += [i % 100 for i in kept(WeightedPolicy(0.0), shifted)]
    assert np.mean(rich) > 0.7
    assert np.mean(new) > 75 > np.mean(plain) + 10


@pytest.mark.parametrize("settings", [{"weight": -1.0}, {"half_life": 0.0}])
def test_weighted_refuses_settings_that_make_no_sense(settings: Any) -> None:
    with pytest.raises(ValueError, match="half_life"):
        WeightedPolicy(**settings)
