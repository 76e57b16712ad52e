"""Samples of dialogues, their targets, the order of an epoch, micro-batches and batches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.finetune.data.batching import bucketed_steps, collate, micro_batches, shuffled_steps
from mlx_personal.finetune.data.packing import segment_path
from mlx_personal.finetune.data.samples import Sample, count_target_tokens, make_samples
from tests.support import random_models

QUESTIONS = ["What shall I cook?", "My cat does not eat.", "How deep?", "Привет"]
DIALOGUES = [Dialogue.of(question, f"Try a soup, number {i}.") for i, question in enumerate(QUESTIONS)]
SEVERAL_TURNS = Dialogue.from_messages(
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Tomatoes?"},
        {"role": "assistant", "content": "<think>hm</think>In May."},
        {"role": "user", "content": "How deep?"},
        {"role": "assistant", "content": "A hand."},
    ]
)

# Samples


def test_every_assistant_turn_without_thoughts_is_a_target(tiny_model: LanguageModel) -> None:
    (sample,) = make_samples(tiny_model, [SEVERAL_TURNS], 1024).samples
    trained_on = tiny_model.tokenizer.decode(sample.targets[sample.is_target].tolist())
    assert trained_on == "In May.<|end|>A hand.<|end|>"
    assert "hm" not in tiny_model.tokenizer.decode(sample.inputs.tolist())


def test_a_target_is_the_token_after_its_input(tiny_model: LanguageModel) -> None:
    samples = make_samples(tiny_model, [*DIALOGUES, SEVERAL_TURNS], 1024).samples
    for sample, dialogue in zip(samples, [*DIALOGUES, SEVERAL_TURNS], strict=True):
        ((tokens, is_target),) = tiny_model.tokenize_dialogue(dialogue.without_thoughts())
        assert sample.inputs.tolist() == tokens[:-1]
        assert sample.targets.tolist() == tokens[1:]
        assert sample.is_target.tolist() == is_target[1:]
        assert sample.prompt_length == is_target.index(True) - 1
        assert not sample.is_target[: sample.prompt_length].any() and sample.is_target[sample.prompt_length]
    assert count_target_tokens(samples) == sum(int(sample.is_target.sum()) for sample in samples)


def test_a_long_sample_keeps_its_end(tiny_model: LanguageModel) -> None:
    full, truncated = make_samples(tiny_model, DIALOGUES[:1], 1024), make_samples(tiny_model, DIALOGUES[:1], 10)
    assert (full.truncated, truncated.truncated) == (0, 1)
    assert truncated.samples[0].targets.tolist() == full.samples[0].targets[-9:].tolist()
    assert truncated.samples[0].is_target.tolist() == full.samples[0].is_target[-9:].tolist()


def test_samples_without_a_target_are_dropped_and_counted(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized = [([1, 2, 3], [True, False, False]), ([5], [True]), ([1, 2], [False, True])]
    monkeypatch.setattr(tiny_model, "tokenize_dialogue", lambda dialogue: tokenized)
    samples = make_samples(tiny_model, [*DIALOGUES[:1], Dialogue.of("a", "<think>only</think>")], 1024)
    assert (len(samples.samples), samples.dropped, samples.truncated) == (1, 3, 0)
    assert make_samples(tiny_model, [], 1024) == type(samples)([], 0, 0)


# Order


@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_has_every_sample_once_and_its_last_step_the_rest(
    count: int, size: int, seed: int, epoch: int
) -> None:
    lengths = np.random.default_rng(seed).integers(1, 50, count).tolist()
    for steps in (shuffled_steps(count, size, seed, epoch), bucketed_steps(lengths, size, seed, epoch)):
        assert sorted(sample for step in steps for sample in step) == list(range(count))
        assert sorted(map(len, steps)) == sorted([size] * (count // size) + ([count % size] if count % size else []))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = np.random.default_rng(0).integers(1, 20, 40).tolist()

    def shuffled(seed: int, epoch: int) -> list[list[int]]:
        return shuffled_steps(40, 8, seed, epoch)

    def bucketed(seed: int, epoch: int) -> list[list[int]]:
        return bucketed_steps(lengths, 8, seed, epoch)

    for order in (shuffled, bucketed):
        orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
        np.random.seed(5)
        assert [order(seed, epoch) for seed in range(3) for epoch in range(3)] == orders
        assert len({str(steps) for steps in orders}) == 9


def test_buckets_have_samples_of_similar_length_in_random_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 101).tolist()
    steps = bucketed_steps(lengths, 8, 0, 0)
    longest = [max(lengths[sample] for sample in step) for step in steps]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)
    by_size = sorted(([lengths[sample] for sample in step] for step in steps), key=max)
    assert all(max(shorter) <= min(longer) for shorter, longer in itertools.pairwise(by_size))
    # Padding is a few percent; random batches would have a third.
    padded = sum(max(step) * len(step) for step in by_size)
    assert padded < 1.1 * sum(lengths)


# Micro-batches


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 120), st.sampled_from(["packed", "padded"]))
def test_micro_batches_cover_the_step_and_fit(
    lengths: list[int], tokens: int, shape: Literal["packed", "padded"]
) -> None:
    step = np.random.default_rng(0).permutation(len(lengths)).tolist()
    actual = list(micro_batches(step, lengths, tokens, shape))
    assert [sample for micro_batch in actual for sample in micro_batch] == step

    def size(micro_batch: Sequence[int]) -> int:
        token_counts = [lengths[sample] for sample in micro_batch]
        return sum(token_counts) if shape == "packed" else len(token_counts) * max(token_counts)

    assert all(size(micro_batch) <= tokens or len(micro_batch) == 1 for micro_batch in actual)
    # No micro-batch has space for the next one's first sample.
    for micro_batch, next_micro_batch in itertools.pairwise(actual):
        assert size([*micro_batch, next_micro_batch[0]]) > tokens


# Batches


def test_padding_is_not_a_target() -> None:
    samples = [
        Sample(np.arange(10, 18), np.arange(11, 19), np.array([0, 0, 0, 1, 1, 0, 1, 0], bool)),
        Sample(np.arange(20, 23), np.arange(21, 24), np.array([1, 0, 1], bool)),
    ]
    batch = collate(samples, [1, 0, 1], "padded")
    assert batch.inputs.tolist() == [[20, 21, 22] + [0] * 5, list(range(10, 18)), [20, 21, 22] + [0] * 5]
    assert batch.target_positions.tolist() == [0, 2, 11, 12, 14, 16, 18]
    assert batch.targets.tolist() == [21, 23, 14, 15, 17, 21, 23]
    assert (batch.indices, batch.segments) == ((1, 0, 1), None)


@pytest.mark.parametrize("share_prefixes", [False, True])
def test_a_packed_batch_has_every_target_once_at_its_position(share_prefixes: bool) -> None:
    samples = random_models.prefix_sharing_samples()
    indices = np.random.default_rng(1).permutation(len(samples)).tolist()
    batch = collate(samples, indices, "packed", share_prefixes)
    assert batch.segments is not None
    assert batch.inputs.shape == (1, sum(map(len, batch.segments)))
    starts = np.cumsum([0, *map(len, batch.segments)])
    assert (
        batch.inputs.shape[1] < sum(map(len, samples))
        if share_prefixes
        else batch.inputs.shape[1] == sum(map(len, samples))
    )
    actual: dict[int, list[tuple[int, int]]] = {i: [] for i in range(len(indices))}
    for offset, target in zip(batch.target_positions.tolist(), batch.targets.tolist(), strict=True):
        index = int(np.searchsorted(starts, offset, "right")) - 1
        segment = batch.segments[index]
        position = segment.start + offset - int(starts[index])
        # A position attends to the tokens of its sample alone.
        context = [
            t
            for i in segment_path(batch.segments, index)[:-1]
            for t in batch.inputs[0, starts[i] : starts[i + 1]].tolist()
        ]
        context += batch.inputs[0, starts[index] : offset + 1].tolist()
        assert context == samples[indices[segment.sample]].inputs[: position + 1].tolist()
        actual[segment.sample].append((position, target))
    for i, sample in enumerate(samples[j] for j in indices):
        positions = np.flatnonzero(sample.is_target).tolist()
        assert sorted(actual[i]) == list(zip(positions, sample.targets[sample.is_target].tolist(), strict=True))


def test_targets_are_never_shared() -> None:
    sample = random_models.random_sample(np.random.default_rng(0), 30, target_ratio=0.5)
    batch = collate([sample, sample], [0, 1], "packed", share_prefixes=True)
    assert batch.inputs.shape[1] == 2 * 30 - sample.prompt_length
    assert len(batch.target_positions) == 2 * int(sample.is_target.sum())
