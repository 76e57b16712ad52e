"""What is streamed and what evaluates: apart from each other, the same for all seeds, in bursts as long as stated."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal import Dialogue, Message, UserError
from mlx_personal.dialogue import are_near_duplicates
from mlx_personal.research.study.schemas import Sample
from mlx_personal.research.study.stream import ORDERS, OTHERS, PARTS, StreamConfig, bursts, like_any, split
from mlx_personal.research.study.topics import clustered, topics_of

BASE = StreamConfig(part="all", order="shuffled", strength=0.9, received=20, evaluation=10, seed=0)


def sample(number: int, topic: str | None = None) -> Sample:
    """A question of six words, five of them its own."""
    return Sample(Dialogue.of(" ".join(f"w{number}x{i}" for i in range(5)) + " please", f"answer {number}"), topic)


SAMPLES = [sample(i, "abc"[i % 3]) for i in range(61)]
TOPICS = [str(s.topic) for s in SAMPLES]


def config(**changes: object) -> StreamConfig:
    return dataclasses.replace(BASE, **changes)  # type: ignore[arg-type]


def lengths(topics: list[str]) -> list[int]:
    return [len(list(run)) for _, run in itertools.groupby(topics)]


# Which


@given(
    st.sampled_from(PARTS),
    st.sampled_from(ORDERS),
    st.floats(0, 1),
    st.integers(1, 20),
    st.integers(1, 10),
    st.integers(0, 2**40),
)
@settings(max_examples=50)
def test_stream_and_evaluation_are_apart_and_as_long_as_asked(
    part: str, order: str, strength: float, received: int, evaluation: int, seed: int
) -> None:
    stream = split(SAMPLES, TOPICS, StreamConfig(part, order, strength, received, evaluation, seed))
    of_part = {"all": range(61), "first": range(30), "second": range(30, 61)}[part]
    both = stream.received + stream.evaluation
    assert (len(stream.received), len(stream.evaluation)) == (received, evaluation)
    assert len(set(both)) == len(both)
    assert set(both) <= set(of_part)
    assert all(type(place) is int for place in both)


@given(st.sampled_from(PARTS), st.sampled_from(ORDERS), st.integers(1, 15), st.integers(0, 2**31))
@settings(max_examples=30)
def test_the_evaluation_dialogues_are_the_same_for_every_seed_order_and_length(
    part: str, order: str, received: int, seed: int
) -> None:
    expected = split(SAMPLES, TOPICS, config(part=part)).evaluation
    changed = config(part=part, order=order, received=received, seed=seed)
    assert split(SAMPLES, TOPICS, changed).evaluation == expected
    others = split(SAMPLES, TOPICS, config(part=part)).others
    assert split(SAMPLES, TOPICS, changed).others == others
    assert len(set(others)) == len(others) > 0 and not set(others) & set(expected)
    assert split(SAMPLES, TOPICS, dataclasses.replace(changed, evaluation=4)).evaluation == expected[:4]


def test_another_part_has_other_evaluation_dialogues_and_all_its_dialogues_may_be_drawn() -> None:
    first, second = (split(SAMPLES, TOPICS, config(part=part)) for part in ("first", "second"))
    assert not set(first.evaluation) & set(second.evaluation)
    # Drawn over all of a half, not taken from one end of it.
    assert min(first.evaluation) < 10 and max(first.evaluation) >= 20
    assert max(first.others) < 30 <= min(second.others)


def test_in_order_takes_the_first_that_do_not_evaluate() -> None:
    stream = split(SAMPLES, TOPICS, config(order="in-order", part="second"))
    assert stream.received == [i for i in range(30, 61) if i not in stream.evaluation][:20]


def test_a_seed_gives_the_same_shuffle_again_and_another_seed_another() -> None:
    one, again, other = (split(SAMPLES, TOPICS, config(seed=seed)).received for seed in (1, 1, 2))
    assert one == again
    assert one != other
    # Other dialogues too, where not all are streamed.
    assert set(one) != set(other)
    assert one != sorted(one)


@pytest.mark.parametrize("seed", [0, 5])
def test_a_correlated_stream_has_the_dialogues_of_the_shuffled_one(seed: int) -> None:
    shuffled = split(SAMPLES, TOPICS, config(seed=seed))
    correlated = split(SAMPLES, TOPICS, config(seed=seed, order="correlated", strength=1.0))
    assert sorted(correlated.received) == sorted(shuffled.received)
    assert len(lengths([TOPICS[i] for i in correlated.received])) == 3


# Bursts


def test_full_strength_gives_one_topic_after_the_other() -> None:
    ordered = bursts(range(90), [str(i % 4) for i in range(90)], 1.0, seed=3)
    assert sorted(ordered) == list(range(90))
    assert sorted(lengths([str(i % 4) for i in ordered])) == [22, 22, 23, 23]


@pytest.mark.parametrize("strength", [0.0, 0.5, 0.8, 0.9])
def test_bursts_are_as_long_as_stated(strength: float) -> None:
    topics = [str(i % 10) for i in range(20_000)]
    # The first half, in which no topic runs out and all keep about a tenth of what is left.
    found = lengths([topics[i] for i in bursts(range(20_000), topics, strength, seed=0)[:10_000]])
    expected = 1 / ((1 - strength) * (1 - 0.1))
    # A burst's length is geometric: its standard deviation is below its mean.
    assert statistics.mean(found) == pytest.approx(expected, abs=4 * expected / len(found) ** 0.5)


def test_no_strength_is_a_shuffle() -> None:
    """All 6 orders of a, a, b, b by topic come equally often, as chi-squared (5 degrees of freedom) sees it."""
    counts = Counter("".join("aabb"[i] for i in bursts(range(4), "aabb", 0.0, seed)) for seed in range(3000))
    assert len(counts) == 6
    assert sum((n - 500) ** 2 / 500 for n in counts.values()) < 20.5  # passed by chance but once in a thousand


def test_within_a_topic_the_shuffled_order_is_kept() -> None:
    ordered = bursts([5, 3, 9, 1, 7, 2], "aabbab", 0.5, seed=1)
    assert [i for i in ordered if i in (5, 3, 7)] == [5, 3, 7]
    assert [i for i in ordered if i in (9, 1, 2)] == [9, 1, 2]


def test_a_topic_is_the_data_sets_label_or_else_a_cluster_of_like_texts() -> None:
    # Sixteen subjects with four words of their own each; a text takes three of its subject's.
    subjects = [[f"{stem}{end}" for end in ("a", "b", "c", "d")] for stem in "bcdfghjklmnpqrst"]
    texts = [" ".join(subjects[i % 16][:k] + subjects[i % 16][k + 1 :]) for k in range(4) for i in range(16)]
    samples = [Sample(Dialogue.of(text, "Yes."), None) for text in texts]
    labelled = [Sample(sample.dialogue, "proud") for sample in samples[:2]]
    found = topics_of([*samples, *labelled])
    assert found[64:] == ["proud", "proud"]
    # What is drawn first decides: a subject may get two clusters, and then two others share one.
    assert sum(len(set(found[i:64:16])) == 1 for i in range(16)) >= 13
    assert len(set(found[:16])) >= 13
    assert topics_of([*samples, *labelled]) == found


def test_texts_without_words_have_a_topic_too() -> None:
    assert clustered([]) == []
    assert clustered(["!", "?"]) == [0, 0]


def test_the_answers_that_one_is_taken_from_are_not_more_than_can_be_compared() -> None:
    many = [sample(i) for i in range(OTHERS + 30)]
    assert len(split(many, ["x"] * len(many), config(evaluation=5)).others) == OTHERS


# Near-duplicates


def test_nothing_that_asks_what_an_evaluation_dialogue_asks_is_streamed() -> None:
    # Every question again, in nearly the same words.
    twins = [Sample(Dialogue.of(s.dialogue.question + " now", "another answer"), s.topic) for s in SAMPLES]
    samples = [*SAMPLES, *twins]
    stream = split(samples, TOPICS * 2, config(evaluation=5, received=100))
    held = [samples[place].dialogue for place in stream.evaluation]
    assert not any(are_near_duplicates(samples[place].dialogue, other) for place in stream.received for other in held)
    twins_of_held = {(place + len(SAMPLES)) % len(samples) for place in stream.evaluation} - set(stream.evaluation)
    assert stream.like_evaluation == len(twins_of_held) > 0
    assert not twins_of_held & (set(stream.received) | set(stream.others))
    assert split(SAMPLES, TOPICS, BASE).like_evaluation == 0


WORD = st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "with", "dog", "!", "7"])
TURN = st.lists(WORD, min_size=1, max_size=9).map(" ".join)
DIALOGUE = st.lists(TURN, min_size=1, max_size=3).map(
    lambda turns: Dialogue(tuple(m for turn in turns for m in (Message("user", turn), Message("assistant", "yes"))))
)


@given(st.lists(DIALOGUE, max_size=8), st.lists(DIALOGUE, max_size=8))
@settings(max_examples=80)
def test_the_search_for_near_duplicates_is_that_of_all_pairs(asked: list[Dialogue], held: list[Dialogue]) -> None:
    expected = [any(are_near_duplicates(one, other) for other in held) for one in asked]
    assert like_any(asked, held) == expected


def test_questions_without_words_are_alike_only_if_they_are_the_same() -> None:
    assert like_any([Dialogue.of("?", "x"), Dialogue.of("!", "x")], [Dialogue.of("?", "y")]) == [True, False]


# Bad input


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"received": 52}, "61 dialogues are too few to stream 52 and evaluate on 10; stream at most 51 .--received."),
        (
            {"received": 22, "part": "second"},
            "31 dialogues in the second half .*; stream at most 21 .half of --received.",
        ),
        ({"evaluation": 61}, "evaluate on 61; evaluate on fewer .--evaluation., or name more data"),
        ({"evaluation": 900}, "61 dialogues are too few to stream 20 and evaluate on 900; evaluate on fewer"),
    ],
)
def test_too_few_dialogues_are_one_line_with_what_to_lower(changes: dict[str, object], what: str) -> None:
    with pytest.raises(UserError, match=what):
        split(SAMPLES, TOPICS, config(**changes))


def test_too_few_says_how_many_ask_what_an_evaluation_dialogue_asks() -> None:
    same = [Sample(Dialogue.of("What shall I cook tonight?", f"answer {i}"), None) for i in range(9)]
    with pytest.raises(UserError, match="9 dialogues, of which 8 ask what an evaluation dialogue asks, are too few"):
        split(same, ["x"] * 9, config(received=3, evaluation=1))


@pytest.mark.parametrize(
    "changes",
    [{"part": "third"}, {"order": "sorted"}, {"strength": 1.1}, {"received": 0}, {"evaluation": 0}, {"seed": -1}],
)
def test_a_setting_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|is one of"):
        config(**changes)


def test_topics_are_one_for_each_sample() -> None:
    with pytest.raises(ValueError, match="60 topics for 61 samples"):
        split(SAMPLES, TOPICS[1:], BASE)
