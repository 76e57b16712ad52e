"""Rows of dialogues, exact targets, every row once an epoch, and parts that fit."""

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
from mlx_personal.finetune.data.samples import Sample, make_samples, target_tokens
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

# Rows


def test_every_assistant_turn_without_thoughts_is_a_target(tiny_model: LanguageModel) -> None:
    (row,) = make_samples(tiny_model, [SEVERAL_TURNS], 1024).samples
    learnt = tiny_model.tokenizer.decode(row.targets[row.is_target].tolist())
    assert learnt == "In May.<|end|>A hand.<|end|>"
    assert "hm" not in tiny_model.tokenizer.decode(row.inputs.tolist())


def test_a_target_is_the_token_after_its_input(tiny_model: LanguageModel) -> None:
    rows = make_samples(tiny_model, [*DIALOGUES, SEVERAL_TURNS], 1024).samples
    for row, dialogue in zip(rows, [*DIALOGUES, SEVERAL_TURNS], strict=True):
        ((tokens, is_target),) = tiny_model.tokenize_dialogue(dialogue.without_thoughts())
        assert row.inputs.tolist() == tokens[:-1]
        assert row.targets.tolist() == tokens[1:]
        assert row.is_target.tolist() == is_target[1:]
        assert row.prompt_length == is_target.index(True) - 1
        assert not row.is_target[: row.prompt_length].any() and row.is_target[row.prompt_length]
    assert target_tokens(rows) == sum(int(row.is_target.sum()) for row in rows)


def test_a_long_sample_keeps_its_end(tiny_model: LanguageModel) -> None:
    full, cut = make_samples(tiny_model, DIALOGUES[:1], 1024), make_samples(tiny_model, DIALOGUES[:1], 10)
    assert (full.truncated, cut.truncated) == (0, 1)
    assert cut.samples[0].targets.tolist() == full.samples[0].targets[-9:].tolist()
    assert cut.samples[0].is_target.tolist() == full.samples[0].is_target[-9:].tolist()


def test_samples_without_a_target_are_dropped_and_counted(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_of_one = [([1, 2, 3], [True, False, False]), ([5], [True]), ([1, 2], [False, True])]
    monkeypatch.setattr(tiny_model, "tokenize_dialogue", lambda dialogue: rows_of_one)
    rows = make_samples(tiny_model, [*DIALOGUES[:1], Dialogue.of("a", "<think>only</think>")], 1024)
    assert (len(rows.samples), rows.dropped, rows.truncated) == (1, 3, 0)
    assert make_samples(tiny_model, [], 1024) == type(rows)([], 0, 0)


# Orders


@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_has_every_sample_once_and_its_last_step_the_rest(
    count: int, size: int, seed: int, epoch: int
) -> None:
    lengths = np.random.default_rng(seed).integers(1, 50, count).tolist()
    for steps in (shuffled_steps(count, size, seed, epoch), bucketed_steps(lengths, size, seed, epoch)):
        assert sorted(row for step in steps for row in step) == list(range(count))
        assert sorted(map(len, steps)) == sorted([size] * (count // size) + ([count % size] if count % size else []))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = np.random.default_rng(0).integers(1, 20, 40).tolist()
    for order in (lambda *at: shuffled_steps(40, 8, *at), lambda *at: bucketed_steps(lengths, 8, *at)):
        several = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
        np.random.seed(5)
        assert [order(seed, epoch) for seed in range(3) for epoch in range(3)] == several
        assert len({str(steps) for steps in several}) == 9


def test_buckets_have_samples_of_similar_length_in_random_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 101).tolist()
    steps = bucketed_steps(lengths, 8, 0, 0)
    longest = [max(lengths[row] for row in step) for step in steps]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)
    by_size = sorted(([lengths[row] for row in step] for step in steps), key=max)
    assert all(max(shorter) <= min(longer) for shorter, longer in itertools.pairwise(by_size))
    # Padding is a few percent, where random batches had a third.
    padded = sum(max(step) * len(step) for step in by_size)
    assert padded < 1.1 * sum(lengths)


# Parts


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 120), st.sampled_from(["packed", "padded"]))
def test_micro_batches_cover_the_step_and_fit(
    lengths: list[int], tokens: int, shape: Literal["packed", "padded"]
) -> None:
    step = np.random.default_rng(0).permutation(len(lengths)).tolist()
    found = list(micro_batches(step, lengths, tokens, shape))
    assert [row for part in found for row in part] == step

    def size(part: Sequence[int]) -> int:
        own = [lengths[row] for row in part]
        return sum(own) if shape == "packed" else len(own) * max(own)

    assert all(size(part) <= tokens or len(part) == 1 for part in found)
    # And no part could have had the next one's first row.
    for part, following in itertools.pairwise(found):
        assert size([*part, following[0]]) > tokens


# Batches


def test_padding_is_not_a_target() -> None:
    rows = [
        Sample(np.arange(10, 18), np.arange(11, 19), np.array([0, 0, 0, 1, 1, 0, 1, 0], bool)),
        Sample(np.arange(20, 23), np.arange(21, 24), np.array([1, 0, 1], bool)),
    ]
    batch = collate(rows, [1, 0, 1], "padded")
    assert batch.inputs.tolist() == [[20, 21, 22] + [0] * 5, list(range(10, 18)), [20, 21, 22] + [0] * 5]
    assert batch.target_positions.tolist() == [0, 2, 11, 12, 14, 16, 18]
    assert batch.targets.tolist() == [21, 23, 14, 15, 17, 21, 23]
    assert (batch.indices, batch.segments) == ((1, 0, 1), None)


@pytest.mark.parametrize("share", [False, True])
def test_a_packed_batch_has_every_target_once_at_its_position(share: bool) -> None:
    rows = random_models.a_family_of_rows()
    chosen = np.random.default_rng(1).permutation(len(rows)).tolist()
    batch = collate(rows, chosen, "packed", share)
    assert batch.inputs.shape == (1, sum(map(len, batch.segments)))
    starts = np.cumsum([0, *map(len, batch.segments)])
    assert batch.inputs.shape[1] < sum(map(len, rows)) if share else batch.inputs.shape[1] == sum(map(len, rows))
    found = {int(row): [] for row in range(len(chosen))}
    for place, target in zip(batch.target_positions.tolist(), batch.targets.tolist(), strict=True):
        index = int(np.searchsorted(starts, place, "right")) - 1
        segment = batch.segments[index]
        position = segment.start + place - int(starts[index])
        # The tokens that this place sees are those of its row.
        seen = [
            t
            for i in segment_path(batch.segments, index)[:-1]
            for t in batch.inputs[0, starts[i] : starts[i + 1]].tolist()
        ]
        seen += batch.inputs[0, starts[index] : place + 1].tolist()
        assert seen == rows[chosen[segment.sample]].inputs[: position + 1].tolist()
        found[segment.sample].append((position, target))
    for i, row in enumerate(rows[j] for j in chosen):
        places = np.flatnonzero(row.is_target).tolist()
        assert sorted(found[i]) == list(zip(places, row.targets[row.is_target].tolist(), strict=True))


def test_targets_are_never_shared() -> None:
    row = random_models.random_row(np.random.default_rng(0), 30, learnt=0.5)
    batch = collate([row, row], [0, 1], "packed", share_prefixes=True)
    assert batch.inputs.shape[1] == 2 * 30 - row.prompt_length
    assert len(batch.target_positions) == 2 * int(row.is_target.sum())
