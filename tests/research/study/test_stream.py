"""The split into stream and evaluation dialogues, and the order of the stream."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal import Dialogue, UserError
from mlx_personal.dialogue import are_near_duplicates
from mlx_personal.research.study.schemas import LabeledDialogue
from mlx_personal.research.study.stream import (
    MAX_REFERENCE_ANSWERS,
    ORDERS,
    PARTS,
    StreamConfig,
    order_in_bursts,
    split_stream,
)
from mlx_personal.research.study.topics import NUM_TOPICS, assign_topics

BASE = StreamConfig(part="all", order="shuffled", strength=0.9, received=20, evaluation=10, seed=0)


def sample(number: int, topic: str | None = None) -> LabeledDialogue:
    """Return a dialogue whose question has six words, five of them unique."""
    return LabeledDialogue(
        Dialogue.of(" ".join(f"w{number}x{i}" for i in range(5)) + " please", f"answer {number}"), topic
    )


BLANK = Dialogue.of("?", "!")
SAMPLES = [sample(i, "abc"[i % 3]) for i in range(61)]
TOPICS = [str(s.topic) for s in SAMPLES]


def config(**changes: object) -> StreamConfig:
    return dataclasses.replace(BASE, **changes)  # type: ignore[arg-type]


def run_lengths(topics: list[str]) -> list[int]:
    return [len(list(run)) for _, run in itertools.groupby(topics)]


# The split


@given(
    st.sampled_from(PARTS),
    st.sampled_from(ORDERS),
    st.floats(0, 1),
    st.integers(1, 20),
    st.integers(1, 10),
    st.integers(0, 2**40),
)
@settings(max_examples=50)
def test_stream_and_evaluation_are_disjoint_and_have_the_requested_sizes(
    part: str, order: str, strength: float, received: int, evaluation: int, seed: int
) -> None:
    split = split_stream(SAMPLES, TOPICS, StreamConfig(part, order, strength, received, evaluation, seed))
    part_indices = {"all": range(61), "first": range(30), "second": range(30, 61)}[part]
    indices = split.streamed + split.evaluation
    assert (len(split.streamed), len(split.evaluation)) == (received, evaluation)
    assert len(set(indices)) == len(indices)
    assert set(indices) <= set(part_indices)
    assert all(type(index) is int for index in indices)


@given(st.sampled_from(PARTS), st.sampled_from(ORDERS), st.integers(1, 15), st.integers(0, 2**31))
@settings(max_examples=30)
def test_the_evaluation_dialogues_do_not_depend_on_order_and_length(
    part: str, order: str, received: int, seed: int
) -> None:
    expected = split_stream(SAMPLES, TOPICS, config(part=part, seed=seed)).evaluation
    changed = config(part=part, order=order, received=received, seed=seed)
    assert split_stream(SAMPLES, TOPICS, changed).evaluation == expected
    reference = split_stream(SAMPLES, TOPICS, config(part=part, seed=seed)).reference
    assert split_stream(SAMPLES, TOPICS, changed).reference == reference
    assert len(set(reference)) == len(reference) > 0 and not set(reference) & set(expected)
    assert split_stream(SAMPLES, TOPICS, dataclasses.replace(changed, evaluation=4)).evaluation == expected[:4]


def test_each_half_has_its_own_evaluation_dialogues_drawn_from_all_of_it() -> None:
    first, second = (split_stream(SAMPLES, TOPICS, config(part=part)) for part in ("first", "second"))
    assert not set(first.evaluation) & set(second.evaluation)
    # Drawn from all of the half, not from one end of it.
    assert min(first.evaluation) < 10 and max(first.evaluation) >= 20
    assert max(first.reference) < 30 <= min(second.reference)


def test_the_second_half_does_not_depend_on_the_first() -> None:
    others = [sample(1000 + number) for number in range(30)]
    changed = split_stream([*others, *SAMPLES[30:]], ["z"] * 30 + TOPICS[30:], config(part="second"))
    assert changed == split_stream(SAMPLES, TOPICS, config(part="second"))


def test_in_order_streams_the_first_dialogues_outside_the_evaluation() -> None:
    split = split_stream(SAMPLES, TOPICS, config(order="in-order", part="second"))
    assert split.streamed == [i for i in range(30, 61) if i not in split.evaluation][:20]


def test_the_shuffle_depends_on_the_seed_only() -> None:
    first, repeated, other = (split_stream(SAMPLES, TOPICS, config(seed=seed)).streamed for seed in (1, 1, 2))
    assert first == repeated
    assert first != other
    # The dialogues differ too, because not all are streamed.
    assert set(first) != set(other)
    assert first != sorted(first)


@pytest.mark.parametrize("seed", [0, 5])
def test_a_correlated_stream_has_the_dialogues_of_the_shuffled_one(seed: int) -> None:
    shuffled = split_stream(SAMPLES, TOPICS, config(seed=seed))
    correlated = split_stream(SAMPLES, TOPICS, config(seed=seed, order="correlated", strength=1.0))
    assert sorted(correlated.streamed) == sorted(shuffled.streamed)
    assert len(run_lengths([TOPICS[i] for i in correlated.streamed])) == 3


# Bursts


def test_strength_one_gives_one_topic_after_the_other() -> None:
    ordered = order_in_bursts(range(90), [str(i % 4) for i in range(90)], 1.0, seed=3)
    assert sorted(ordered) == list(range(90))
    assert sorted(run_lengths([str(i % 4) for i in ordered])) == [22, 22, 23, 23]


@pytest.mark.parametrize("strength", [0.0, 0.5, 0.8, 0.9])
def test_bursts_have_the_documented_mean_length(strength: float) -> None:
    topics = [str(i % 10) for i in range(20_000)]
    # In the first half no topic runs out, and each keeps about a tenth of the remaining dialogues.
    lengths = run_lengths([topics[i] for i in order_in_bursts(range(20_000), topics, strength, seed=0)[:10_000]])
    expected = 1 / ((1 - strength) * (1 - 0.1))
    # The length is geometrically distributed: its standard deviation is below its mean.
    assert statistics.mean(lengths) == pytest.approx(expected, abs=4 * expected / len(lengths) ** 0.5)


def test_strength_zero_is_a_shuffle() -> None:
    """All 6 orders of the topics a, a, b, b are equally frequent by a chi-squared test with 5 degrees of freedom."""
    counts = Counter("".join("aabb"[i] for i in order_in_bursts(range(4), "aabb", 0.0, seed)) for seed in range(3000))
    assert len(counts) == 6
    assert sum((n - 500) ** 2 / 500 for n in counts.values()) < 20.5  # exceeded by chance once in a thousand


def test_dialogues_of_one_topic_keep_the_shuffled_order() -> None:
    ordered = order_in_bursts([5, 3, 9, 1, 7, 2], "aabbab", 0.5, seed=1)
    assert [i for i in ordered if i in (5, 3, 7)] == [5, 3, 7]
    assert [i for i in ordered if i in (9, 1, 2)] == [9, 1, 2]


def test_a_topic_is_the_data_sets_label_or_that_of_a_topic_model() -> None:
    # As many subjects as topics with four unique words each; a text has three words of its subject.
    stems = "bcdfghjklmnpqrst"
    assert len(stems) == NUM_TOPICS
    texts = [" ".join(f"{stem}{end}" for i, end in enumerate("aeio") if i != k) for k in range(4) for stem in stems]
    unlabeled = [LabeledDialogue(Dialogue.of(text, "Yes."), None) for text in texts]
    labeled = [LabeledDialogue(unlabeled[0].dialogue, "proud"), *unlabeled, LabeledDialogue(BLANK, "sad")]
    first, *assigned, last = assign_topics(labeled)
    assert (first, last) == ("proud", "sad")
    # The factorization starts at random: a subject may get two topics, and then two others share one.
    assert sum(len(set(assigned[i::16])) == 1 for i in range(16)) >= 13
    assert len(set(assigned)) >= 13
    assert assign_topics(labeled) == [first, *assigned, last]


def test_texts_without_words_in_common_have_one_topic() -> None:
    assert assign_topics([]) == []
    texts = [LabeledDialogue(BLANK, None), *(sample(number) for number in range(3))]
    assert len(set(assign_topics(texts))) == 1


def test_the_number_of_reference_dialogues_is_limited() -> None:
    many = [sample(i) for i in range(MAX_REFERENCE_ANSWERS + 30)]
    assert len(split_stream(many, ["x"] * len(many), config(evaluation=5)).reference) == MAX_REFERENCE_ANSWERS


# Near-duplicates


def test_near_duplicates_of_evaluation_dialogues_are_not_streamed() -> None:
    # Every question a second time, in nearly the same words.
    duplicates = [
        LabeledDialogue(Dialogue.of(s.dialogue.question + " now", "another answer"), s.topic) for s in SAMPLES
    ]
    samples = [*SAMPLES, *duplicates]
    split = split_stream(samples, TOPICS * 2, config(evaluation=5, received=100))
    evaluation = [samples[index].dialogue for index in split.evaluation]
    assert not any(
        are_near_duplicates(samples[index].dialogue, other) for index in split.streamed for other in evaluation
    )
    duplicates_of_evaluation = {(index + len(SAMPLES)) % len(samples) for index in split.evaluation} - set(
        split.evaluation
    )
    assert split.num_near_duplicates == len(duplicates_of_evaluation) > 0
    assert not duplicates_of_evaluation & (set(split.streamed) | set(split.reference))
    assert split_stream(SAMPLES, TOPICS, BASE).num_near_duplicates == 0


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"evaluation": 61},
            "61 dialogues are too few to evaluate on 61 and stream any; evaluate on fewer",
        ),
        ({"evaluation": 900, "part": "second"}, "31 dialogues in the second half are too few to evaluate on 900"),
    ],
)
def test_too_few_dialogues_give_a_one_line_error_with_what_to_change(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_stream(SAMPLES, TOPICS, config(**changes))


def test_a_stream_has_as_many_dialogues_as_there_are() -> None:
    assert len(split_stream(SAMPLES, TOPICS, config(received=52)).streamed) == 51
    assert len(split_stream(SAMPLES, TOPICS, config(received=900, part="second")).streamed) == 21


def test_the_error_counts_the_near_duplicates() -> None:
    same = [LabeledDialogue(Dialogue.of("What shall I cook tonight?", f"answer {i}"), None) for i in range(9)]
    with pytest.raises(UserError, match="9 dialogues, of which 8 repeat an evaluation question, are too few"):
        split_stream(same, ["x"] * 9, config(received=3, evaluation=1))


@pytest.mark.parametrize(
    "changes",
    [{"part": "third"}, {"order": "sorted"}, {"strength": 1.1}, {"received": 0}, {"evaluation": 0}, {"seed": -1}],
)
def test_invalid_settings_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must"):
        config(**changes)


def test_there_must_be_one_topic_per_dialogue() -> None:
    with pytest.raises(ValueError, match="60 topics for 61 dialogues"):
        split_stream(SAMPLES, TOPICS[1:], BASE)
