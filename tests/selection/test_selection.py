"""The buffer, the rule of [Qin24 §3.2] and the selector, against plain references and across restarts."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.scoring.dissimilarity import in_domain_dissimilarity_reference
from mlx_personal.selection import (
    Bin,
    Buffer,
    Decision,
    PolicyDecision,
    QualityPolicy,
    SelectionCandidate,
    SelectionConfig,
    Selector,
    explain,
)

DOMAINS = ("cooking", "other", "pets")


def unit(*numbers: float) -> np.ndarray:
    vector = np.array(numbers, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def make_bin(slot: int, domain: str = "cooking", vector: np.ndarray | None = None, **changes: Any) -> Bin:
    bin_ = Bin(
        slot=slot,
        dialogue_id=100 + slot,
        domain=domain,
        text=f"words of dialogue {slot}",
        vector=unit(1, slot, 0) if vector is None else vector,
        eoe=0.5,
        dss=0.1,
        idd_on_arrival=0.5,
    )
    return dataclasses.replace(bin_, **changes)


def make_candidate(
    number: int = 0, domain: str = "cooking", vector: np.ndarray | None = None, **changes: Any
) -> SelectionCandidate:
    candidate = SelectionCandidate(
        dialogue_id=number,
        position=number,
        text=f"candidate number {number} says something",
        vector=unit(0, 0, 1) if vector is None else vector,
        eoe=0.6,
        dss=0.2,
        domain=domain,
    )
    return dataclasses.replace(candidate, **changes)


def stream(count: int, seed: int, dimensions: int = 4) -> list[SelectionCandidate]:
    """Return candidates with coarse scores, so that ties and several beaten bins are common."""
    rng = np.random.default_rng(seed)
    return [
        make_candidate(
            number,
            domain=DOMAINS[rng.integers(3)],
            vector=unit(*rng.standard_normal(dimensions)),
            eoe=float(rng.integers(6)) / 6,
            dss=float(rng.integers(4)) / 40,
            text=" ".join(f"w{i}" for i in rng.integers(0, 40, 12)),
        )
        for number in range(count)
    ]


def rebuilt(buffer: Buffer, rng: np.random.Generator | None = None) -> Buffer:
    """Return the buffer that a later process makes from the stored bins."""
    bins = [dataclasses.replace(b, vector=np.frombuffer(b.vector.tobytes(), np.float32)) for b in buffer.bins]
    if rng is not None:
        bins = [bins[i] for i in rng.permutation(len(bins))]
    return Buffer(buffer.capacity, bins, idd=buffer.idd)


# The buffer


def test_an_empty_buffer() -> None:
    buffer = Buffer(2)
    assert (len(buffer), buffer.bins, buffer.free_slot, buffer.nearest(unit(1, 0))) == (0, [], 0, None)
    assert buffer.scores().shape == (0, 3)
    assert buffer.fresh_idd().shape == (0,)
    assert buffer.idd_of(unit(1, 0), "cooking") == 1.0


def test_the_first_free_bin_is_the_lowest() -> None:
    buffer = Buffer(3, [make_bin(0), make_bin(2)])
    assert buffer.free_slot == 1
    buffer.put(make_bin(1))
    assert buffer.free_slot is None
    assert [b.slot for b in buffer.bins] == [0, 1, 2]


def test_the_first_bin_of_a_domain_is_not_unbeatable() -> None:
    buffer = Buffer(3, [make_bin(0, vector=unit(1, 0, 0), idd_on_arrival=1.0)])
    assert buffer.fresh_idd().tolist() == [1.0]
    buffer.put(make_bin(1, vector=unit(1, 1, 0)))
    assert buffer.fresh_idd().tolist() == pytest.approx([1 - 0.5**0.5] * 2)
    buffer.put(make_bin(2, domain="pets", vector=unit(1, 0, 0)))
    assert buffer.fresh_idd()[2] == 1.0
    assert buffer.idd_of(unit(1, 0, 0), "pets") == pytest.approx(0.0, abs=1e-7)


def test_idd_on_arrival_is_an_option() -> None:
    bins = [make_bin(0, idd_on_arrival=0.9), make_bin(1, idd_on_arrival=0.3)]
    assert Buffer(2, bins, idd="arrival").scores()[:, 2].tolist() == [0.9, 0.3]
    assert Buffer(2, bins).scores()[:, 2].tolist() != [0.9, 0.3]
    with pytest.raises(ValueError, match="fresh, arrival"):
        Buffer(2, idd="stale")


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_derived_values_equal_their_definitions_after_any_changes(seed: int, changes: int) -> None:
    rng = np.random.default_rng(seed)
    buffer = Buffer(6)
    for number in range(changes):
        vector = unit(*rng.standard_normal(5))
        buffer.put(make_bin(int(rng.integers(6)), DOMAINS[rng.integers(3)], vector, dialogue_id=number))
    bins = buffer.bins
    for bin_, fresh in zip(bins, buffer.fresh_idd(), strict=True):
        others = [b.vector for b in bins if b.domain == bin_.domain and b is not bin_]
        assert fresh == pytest.approx(in_domain_dissimilarity_reference(bin_.vector, others), abs=1e-6)
    probe = unit(*rng.standard_normal(5))
    for domain in DOMAINS:
        same = [b.vector for b in bins if b.domain == domain]
        assert buffer.idd_of(probe, domain) == pytest.approx(in_domain_dissimilarity_reference(probe, same), abs=1e-6)
    nearest = buffer.nearest(probe)
    assert nearest is not None
    slot, cosine = nearest
    cosines = {b.slot: float(b.vector @ probe) for b in bins}
    assert cosine == pytest.approx(max(cosines.values()), abs=1e-6)
    assert cosines[slot] == pytest.approx(cosine, abs=1e-6)
    again = rebuilt(buffer, rng)
    assert np.array_equal(again.fresh_idd(), buffer.fresh_idd())
    assert np.array_equal(again.scores(), buffer.scores())
    assert again.idd_of(probe, "pets") == buffer.idd_of(probe, "pets")


@pytest.mark.parametrize(
    ("capacity", "bins", "complaint"),
    [
        (0, [], "at least one bin"),
        (2, [make_bin(2)], "no bin 2 in a buffer of 2"),
        (2, [make_bin(-1)], "no bin -1"),
        (2, [make_bin(0), make_bin(0)], "filled twice"),
        (2, [make_bin(0), make_bin(1, vector=unit(1, 0))], r"shape \[3\], not \[2\]"),
        (2, [make_bin(0, vector=np.array([np.nan, 1, 0], np.float32))], "finite"),
    ],
)
def test_invalid_bins_are_refused(capacity: int, bins: list[Bin], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Buffer(capacity, bins)


def test_a_refused_bin_leaves_the_buffer_as_it_was() -> None:
    buffer = Buffer(2, [make_bin(0)])
    with pytest.raises(ValueError, match="shape"):
        buffer.put(make_bin(0, vector=unit(1, 0)))
    assert [b.dialogue_id for b in buffer.bins] == [100]


# The rule of [Qin24 §3.2]


def choose(candidate: SelectionCandidate, *bins: Bin, seed: int = 0) -> PolicyDecision:
    return QualityPolicy().choose(candidate, Buffer(len(bins), bins), np.random.default_rng(seed))


PAIR = (make_bin(0, vector=unit(1, 0, 0)), make_bin(1, vector=unit(1, 1, 0)))  # both with a fresh IDD of 0.29


def test_a_bin_lower_in_all_three_scores_is_replaced() -> None:
    decision = choose(make_candidate(), *PAIR)
    assert decision.slot in (0, 1)
    assert decision.beaten_slots == (0, 1)
    assert decision.unbeaten_counts == {"eoe": 0, "dss": 0, "idd": 0}
    assert decision.nearest_miss is None


@pytest.mark.parametrize(
    ("changes", "unbeaten"),
    [
        ({"eoe": 0.5}, "eoe"),
        ({"eoe": 0.4}, "eoe"),
        ({"dss": 0.1}, "dss"),
        ({"dss": 0.0}, "dss"),
        ({"vector": unit(1, 0.4, 0)}, "idd"),
    ],
)
def test_a_bin_as_high_in_one_score_is_kept(changes: dict[str, Any], unbeaten: str) -> None:
    decision = choose(make_candidate(**changes), *PAIR)
    assert decision.slot is None
    assert decision.unbeaten_counts == {"eoe": 0, "dss": 0, "idd": 0} | {unbeaten: 2}
    assert decision.nearest_miss is not None
    assert decision.nearest_miss[1] == (unbeaten,)


def test_without_domain_words_on_both_sides_the_other_two_scores_decide() -> None:
    wordless = [dataclasses.replace(b, dss=0.0, domain="other") for b in PAIR]
    assert choose(make_candidate(dss=0.0, domain="other"), *wordless).beaten_slots == (0, 1)
    assert choose(make_candidate(dss=0.0, domain="other", eoe=0.5), *wordless).slot is None
    assert choose(make_candidate(dss=0.0), *PAIR).slot is None


def test_one_of_several_beaten_bins_is_drawn_by_the_seed() -> None:
    bins = [make_bin(i, vector=unit(1, 0.1 * i, 0)) for i in range(8)]
    drawn = {seed: choose(make_candidate(), *bins, seed=seed).slot for seed in range(200)}
    assert set(drawn.values()) == set(range(8))
    assert all(choose(make_candidate(), *bins, seed=seed).slot == slot for seed, slot in drawn.items())


def test_the_nearest_miss_was_unbeaten_in_fewest_scores_then_by_least() -> None:
    bins = [
        make_bin(0, vector=unit(1, 0, 0), eoe=0.61),
        make_bin(1, vector=unit(1, 0.1, 0), eoe=0.9),
        make_bin(2, vector=unit(1, 0.2, 0), eoe=0.605, dss=0.21),
    ]
    assert choose(make_candidate(), *bins).nearest_miss == (0, ("eoe",))


@given(st.integers(0, 2**32 - 1), st.sampled_from(["fresh", "arrival"]))
@settings(max_examples=40, deadline=None)
def test_beaten_bins_are_those_of_the_definition(seed: int, idd: str) -> None:
    *first, new = stream(9, seed)
    bins = [Bin(i, c.dialogue_id, c.domain, c.text, c.vector, c.eoe, c.dss, 0.1 * i) for i, c in enumerate(first)]
    buffer = Buffer(8, bins, idd=idd)
    decision = QualityPolicy().choose(new, buffer, np.random.default_rng(0))
    idd_of_new = in_domain_dissimilarity_reference(new.vector, [b.vector for b in bins if b.domain == new.domain])
    expected = []
    for b in bins:
        others = [o.vector for o in bins if o.domain == b.domain and o is not b]
        theirs = in_domain_dissimilarity_reference(b.vector, others) if idd == "fresh" else b.idd_on_arrival
        dss = new.dss > b.dss or new.dss == b.dss == 0
        if new.eoe > b.eoe and dss and idd_of_new > theirs and not abs(idd_of_new - theirs) < 1e-6:
            expected.append(b.slot)
    assert list(decision.beaten_slots) == expected
    assert (decision.slot in expected) if expected else (decision.slot is None)


# The selector


def make_selector(*bins: Bin, capacity: int = 2, near_duplicate: float = 0.9) -> Selector:
    return Selector(Buffer(capacity, bins), QualityPolicy(), near_duplicate)


def test_a_free_bin_takes_any_dialogue() -> None:
    decision = make_selector(PAIR[0]).offer(make_candidate(7, eoe=0.0, dss=0.0))
    assert (decision.action, decision.slot, decision.replaced_id) == ("stored", 1, None)
    assert decision.scores.idd == 1.0


def test_a_replacement_is_recorded_with_the_scores_of_both() -> None:
    selector = make_selector(*PAIR)
    decision = selector.offer(make_candidate(7))
    assert decision.action == "replaced"
    assert decision.slot is not None
    assert decision.slot in decision.beaten_slots == (0, 1)
    assert decision.replaced_id == 100 + decision.slot
    assert selector.buffer[decision.slot].dialogue_id == 7
    assert selector.buffer[decision.slot].idd_on_arrival == decision.scores.idd == 1.0
    before = decision.detail["replaced"]
    assert (before["dialogue_id"], before["eoe"], before["dss"]) == (decision.replaced_id, 0.5, 0.1)
    assert before["idd"] == pytest.approx(1 - 0.5**0.5)


def test_a_candidate_that_beats_no_bin_changes_nothing() -> None:
    selector = make_selector(*PAIR)
    decision = selector.offer(make_candidate(7, eoe=0.4))
    assert (decision.action, decision.slot, decision.replaced_id, decision.beaten_slots) == ("kept-out", None, None, ())
    assert [b.dialogue_id for b in selector.buffer.bins] == [100, 101]


TEXT = "how do I bake bread without an oven use a heavy pot with a lid on a low flame"


@pytest.mark.parametrize("capacity", [1, 2], ids=["full", "with a free bin"])
def test_a_near_duplicate_of_a_bin_is_refused(capacity: int) -> None:
    selector = make_selector(make_bin(0, text=TEXT, vector=unit(0, 0, 1)), capacity=capacity)
    decision = selector.offer(make_candidate(7, text=TEXT.replace("bake", "make")))
    assert decision.action == "duplicate"
    same = decision.detail["duplicate_of"]
    assert (same["slot"], same["dialogue_id"]) == (0, 100)
    assert same["rouge1"] == pytest.approx(18 / 19)
    assert len(selector.buffer) == 1


def test_neither_a_near_vector_nor_near_words_alone_make_a_duplicate() -> None:
    apart = make_bin(0, text="quite other words were said here", vector=unit(0, 0, 1))
    assert make_selector(apart).offer(make_candidate(7, text=TEXT)).action == "stored"
    nearer = make_bin(1, text="quite other words were said here", vector=unit(0, 0, 1))
    selector = make_selector(make_bin(0, text=TEXT, vector=unit(1, 0, 0)), nearer, capacity=3)
    assert selector.offer(make_candidate(7, text=TEXT)).action == "stored"


def test_equal_texts_without_words_are_duplicates() -> None:
    assert (
        make_selector(make_bin(0, text="🙂", vector=unit(0, 0, 1))).offer(make_candidate(7, text="🙂")).action
        == "duplicate"
    )
    assert (
        make_selector(make_bin(0, text="🙂", vector=unit(0, 0, 1))).offer(make_candidate(7, text="🙃")).action
        == "stored"
    )


def test_the_near_duplicate_threshold_is_an_argument() -> None:
    selector = make_selector(make_bin(0, text="a b c d", vector=unit(0, 0, 1)), near_duplicate=0.5)
    assert selector.offer(make_candidate(7, text="a b x y")).action == "duplicate"


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.sampled_from(["fresh", "arrival"]), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_a_restart_anywhere_changes_no_decision(seed: int, stop: int, idd: str, draw_seed: int) -> None:
    offers = stream(60, seed)
    straight = Selector(Buffer(7, idd=idd), QualityPolicy(), seed=draw_seed)
    expected = [straight.offer(c) for c in offers]
    first = Selector(Buffer(7, idd=idd), QualityPolicy(), seed=draw_seed)
    decisions = [first.offer(c) for c in offers[:stop]]
    second = Selector(rebuilt(first.buffer, np.random.default_rng(seed)), QualityPolicy(), seed=draw_seed)
    decisions += [second.offer(c) for c in offers[stop:]]
    assert decisions == expected
    assert [b.dialogue_id for b in second.buffer.bins] == [b.dialogue_id for b in straight.buffer.bins]


def test_the_seed_decides_which_of_the_beaten_bins_give_way() -> None:
    runs = []
    for seed in (0, 0, 1):
        selector = Selector(Buffer(20), QualityPolicy(), seed=seed)
        runs.append([selector.offer(c).slot for c in stream(200, 5)])
    assert runs[0] == runs[1] != runs[2]


class FirstInFirstOut:
    """Another policy, as a user of the interface would write it."""

    def choose(self, candidate: SelectionCandidate, buffer: Buffer, rng: np.random.Generator) -> PolicyDecision:
        return PolicyDecision(min(buffer.bins, key=lambda b: b.dialogue_id).slot, "it held the oldest dialogue")


def test_a_custom_policy_works_with_the_selector() -> None:
    selector = Selector(Buffer(3), FirstInFirstOut())
    decisions = [selector.offer(c) for c in stream(10, 0)]
    assert [d.replaced_id for d in decisions] == [None] * 3 + list(range(7))
    assert explain(decisions[-1]).startswith("Dialogue 9 was kept in bin 0 in place of dialogue 6: it held the oldest")


# Explaining


@pytest.mark.parametrize(
    ("offered", "lines"),
    [
        (
            make_candidate(7, eoe=0.4),
            [
                "Dialogue 7 was not kept: no bin is below it in EOE, DSS and IDD at once.",
                "Its scores: EOE 0.4000, DSS 0.20000, IDD 1.0000; domain cooking.",
                "It beat 0 of 2 bins; as high or higher were 2 in EOE, 0 in DSS, 0 in IDD.",
                "Nearest miss: bin 0 (dialogue 100, cooking), not beaten in EOE (0.4000 against 0.5000).",
            ],
        ),
        (
            make_candidate(7, vector=unit(0, 1, 0), dss=0.0),
            [
                "Dialogue 7 was not kept: no bin is below it in EOE, DSS and IDD at once.",
                "Its scores: EOE 0.6000, DSS 0.00000, IDD 0.6464; domain cooking.",
                "It beat 0 of 2 bins; as high or higher were 0 in EOE, 2 in DSS, 0 in IDD.",
                "Nearest miss: bin 0 (dialogue 100, cooking), not beaten in DSS (0.00000 against 0.10000).",
            ],
        ),
    ],
)
def test_explanation_of_a_rejected_dialogue(offered: SelectionCandidate, lines: list[str]) -> None:
    assert explain(make_selector(*PAIR).offer(offered)).splitlines() == lines


def test_explanation_of_a_replacement() -> None:
    bins = (make_bin(0, vector=unit(1, 0, 0)), make_bin(1, vector=unit(1, 1, 0), eoe=0.7))
    assert explain(make_selector(*bins).offer(make_candidate(7))).splitlines() == [
        "Dialogue 7 was kept in bin 0 in place of dialogue 100: higher than 1 of 2 bins in EOE, DSS and IDD.",
        "Its scores: EOE 0.6000, DSS 0.20000, IDD 1.0000; domain cooking.",
        "Then bin 0 (dialogue 100, cooking) had EOE 0.5000, DSS 0.10000, IDD 0.2929.",
        "It beat 1 of 2 bins; as high or higher were 1 in EOE, 0 in DSS, 0 in IDD.",
        "Nearest miss: bin 1 (dialogue 101, cooking), not beaten in EOE (0.6000 against 0.7000).",
    ]


def test_explanation_of_a_stored_and_of_a_refused_dialogue() -> None:
    selector = make_selector(capacity=2)
    assert explain(selector.offer(make_candidate(1))).startswith(
        "Dialogue 1 was kept in bin 0: a bin was free.\nIts scores"
    )
    refused = selector.offer(make_candidate(2, text=make_candidate(1).text))
    assert explain(refused).startswith(
        "Dialogue 2 was rejected as a near-duplicate: it repeats dialogue 1 in bin 0 (ROUGE-1 1.00)."
    )


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_stored_decision_is_explained_like_the_original(seed: int) -> None:
    selector = Selector(Buffer(4), QualityPolicy())
    for offered in stream(30, seed):
        decision = selector.offer(offered)
        scores = dataclasses.asdict(decision.scores)
        columns = ("dialogue_id", "action", "domain", "slot", "replaced_id")
        row = {**{name: getattr(decision, name) for name in columns}, **scores}
        restored = Decision.from_row({**row, "detail": json.loads(json.dumps(decision.detail))})
        assert restored == decision
        assert explain(restored) == explain(decision)
        assert "\n" not in decision.reason


@pytest.mark.parametrize(
    "settings_",
    [
        {"bins": 0},
        {"bins": 65537},
        {"near_duplicate": 0.0},
        {"near_duplicate": 1.1},
        {"near_duplicate": math.nan},
        {"idd": "old"},
        {"policy": "best"},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_settings_out_of_range_are_refused(settings_: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings_))):
        SelectionConfig(**settings_)
