"""Samples of dialogues with examples: their targets, and losses and gradients equal to those of each sample alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.finetune.data.samples import Sample, make_samples
from mlx_personal.finetune.forward.equivalence import ForwardMode, select_mode
from mlx_personal.finetune.forward.gradients import GradientComputer
from mlx_personal.finetune.planning.memory import MemoryPlan
from mlx_personal.memory import Memory, MemoryConfig, MemoryEntry
from tests.support import random_models

QUESTIONS = ["Lamp bulb?", "Lamp cord?", "Lamp shade?", "Lentil soup?", "Bean soup?", "A cat?"]
DIALOGUES = [Dialogue.of(question, f"Answer {number}.") for number, question in enumerate(QUESTIONS)]


def samples_as_in_chat(lm: LanguageModel, **settings: Any) -> list[Sample]:
    """Return the samples of all dialogues, each with up to two others before it."""
    config = MemoryConfig(examples=2, retrieval="bm25", min_bm25=0.05, **settings)
    memory = Memory([MemoryEntry(i, dialogue, i) for i, dialogue in enumerate(DIALOGUES)], config, lm)
    return make_samples(lm, [memory.with_examples(d, {i}) for i, d in enumerate(DIALOGUES)], 256).samples


def processed_tokens(lm: LanguageModel, weights: dict[str, Any], samples: list[Sample], share: bool) -> int:
    computer = GradientComputer(lm, samples, "packed", MemoryPlan(micro_batch_tokens=10_000), share)
    with computer.prepared():
        computer.gradient(weights, range(len(samples)), (0,))
    return computer.processed_tokens


def test_only_the_dialogue_s_own_answer_is_a_target(tiny_model: LanguageModel) -> None:
    plain = make_samples(tiny_model, DIALOGUES, 256).samples
    longer = samples_as_in_chat(tiny_model)
    assert [len(a) > len(b) for a, b in zip(longer, plain, strict=True)] == [True] * 5 + [False]
    for a, b in zip(longer, plain, strict=True):
        np.testing.assert_array_equal(a.targets[a.is_target], b.targets[b.is_target])
        # The sample ends as the plain one does, after its begin-of-text token.
        np.testing.assert_array_equal(a.inputs[len(a) - len(b) + 1 :], b.inputs[1:])


@pytest.mark.parametrize("mode", ["packed", "padded", "plain"])
def test_each_forward_mode_gives_the_loss_and_gradient_of_each_sample_alone(
    tiny_model: LanguageModel, mode: ForwardMode
) -> None:
    samples = samples_as_in_chat(tiny_model)
    weights = random_models.with_adapter(tiny_model, num_layers=1)
    try:
        loss = random_models.reference_loss(tiny_model, samples)
        gradient = random_models.reference_gradient(tiny_model, weights, samples)
        computer = GradientComputer(tiny_model, samples, mode, MemoryPlan(micro_batch_tokens=300), True)
        with computer.prepared():
            sums, computed = computer.gradient(weights, range(len(samples)), (0,))
        assert np.array(sums).reshape(-1)[0] == pytest.approx(loss, rel=1e-5)
        assert random_models.distance(computed, gradient) < 3e-4
    finally:
        tiny_model.detach_adapter()


def test_the_fastest_mode_passes_the_check_and_equal_examples_are_computed_once(tiny_model: LanguageModel) -> None:
    weights = random_models.with_adapter(tiny_model, num_layers=1)
    try:
        samples = samples_as_in_chat(tiny_model, order="received")
        selection = select_mode(tiny_model, samples)
        assert (selection.mode, selection.fallback_reason) == ("packed", "")
        # Two copies of each dialogue have the same examples, as rewrites of a dialogue may.
        twice = [sample for sample in samples for _ in range(2)]
        shared, separate = (processed_tokens(tiny_model, weights, twice, share) for share in (True, False))
        assert separate == 2 * sum(map(len, samples))
        assert shared < 0.8 * separate
    finally:
        tiny_model.detach_adapter()
