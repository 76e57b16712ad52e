"""Checkpointed blocks: the same gradient from less memory, and blocks as they were afterwards."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map

from mlx_personal import LanguageModel
from mlx_personal.finetune import LoRAConfig, TrainingData, train
from mlx_personal.finetune.forward.dropout import RandomKeys, keyed_dropout
from mlx_personal.finetune.forward.equivalence import ForwardMode
from mlx_personal.finetune.forward.gradient_checkpointing import gradient_checkpointing
from mlx_personal.finetune.forward.gradients import GradientComputer
from mlx_personal.finetune.planning.memory import MemoryPlan
from tests.support import random_models

ROWS = random_models.a_family_of_rows()


def gradient(
    lm: LanguageModel, weights: dict[str, Any], way: ForwardMode, checkpoint: bool, seed: int
) -> tuple[float, Any]:
    computing = GradientComputer(lm, ROWS, way, MemoryPlan(batch_tokens=200, checkpoint=checkpoint), share=False)
    with computing.opened():
        loss, slope = computing.gradient(weights, range(len(ROWS)), (seed,))
    return float(loss), slope


@pytest.mark.parametrize("way", ["packed", "padded", "plain"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_gradient_is_the_same(family: str, way: ForwardMode) -> None:
    lm = random_models.random_model(family)
    weights = random_models.with_adapter(lm)
    wanted, found = (gradient(lm, weights, way, checkpoint, 0) for checkpoint in (False, True))
    assert found[0] == pytest.approx(wanted[0], rel=1e-6)
    assert random_models.distance(found[1], wanted[1]) < 1e-5
    assert random_models.distance(found[1], random_models.reference_gradient(lm, weights, ROWS)) < 1e-5


@pytest.mark.parametrize("way", ["packed", "padded", "plain"])
def test_with_dropout_it_is_the_slope_of_the_same_loss(way: ForwardMode) -> None:
    """The same seed drops the same places: the loss a little up and a little down a direction tells its slope."""
    lm = random_models.random_model("llama")
    weights = random_models.with_adapter(lm, dropout=0.4)
    slope = gradient(lm, weights, way, True, 1)[1]
    size = np.linalg.norm(random_models.flat(slope))
    up, down = (
        gradient(lm, tree_map(lambda w, g, s=step: w + s * g / size, weights, slope), way, True, 1)[0]
        for step in (0.01, -0.01)
    )
    assert (up - down) / 0.02 == pytest.approx(size, rel=1e-2)
    assert gradient(lm, weights, way, True, 2)[0] != gradient(lm, weights, way, True, 1)[0]


def test_dropped_places_are_the_same_when_a_block_is_computed_again() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.dropout = mx.ones((1000,)), nn.Dropout(0.5)

        def __call__(self, x: mx.array) -> mx.array:
            return self.dropout(self.dropout(x * self.weight))

    block, keys = Block(), RandomKeys(0)
    with keyed_dropout([block], keys), gradient_checkpointing([block], keys):
        # The output is linear in the input: the gradient of its sum is the output, if both passes drop the same.
        found = mx.value_and_grad(lambda x: block(x).sum())(mx.ones((1000,)))
        total, slope = float(found[0]), np.array(found[1])
    assert set(np.unique(slope)) == {0.0, 4.0}
    assert slope.sum() == total
    assert 800 < total < 1200


def test_what_follows_a_checkpointed_block_draws_other_numbers() -> None:
    """The key goes on behind the block, and is not set back by its second pass."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.dropout = mx.ones((1000,)), nn.Dropout(0.5)

        def __call__(self, x: mx.array) -> mx.array:
            return self.dropout(x * self.weight)

    blocks, keys = [Block(), Block()], RandomKeys(0)
    with keyed_dropout(blocks, keys), gradient_checkpointing(blocks, keys):
        slope = np.array(mx.grad(lambda x: blocks[1](blocks[0](x)).sum())(mx.ones((1000,))))
        first, second = (np.array(block(mx.ones((1000,)))) for block in blocks)
    assert set(np.unique(slope)) == {0.0, 4.0}  # the same places twice would leave a half, not a quarter
    assert 180 < (slope > 0).sum() < 320
    assert (first != second).any()


def test_it_may_be_switched_on_twice() -> None:
    lm = random_models.random_model("llama")
    weights = random_models.with_adapter(lm)
    wanted, kind, keys = gradient(lm, weights, "packed", False, 3), type(lm.model.layers[1]), RandomKeys()
    with gradient_checkpointing(lm.model.layers, keys), gradient_checkpointing(lm.model.layers, keys):
        for found in (gradient(lm, weights, "packed", checkpoint, 3) for checkpoint in (True, False)):
            assert found[0] == pytest.approx(wanted[0], rel=1e-6)
            assert random_models.distance(found[1], wanted[1]) < 1e-5
    assert type(lm.model.layers[1]) is kind


def test_two_trainings_one_after_the_other_are_alike() -> None:
    lm = random_models.random_model("llama")
    found = []
    for dropout, checkpoint in ((0.2, True), (0.2, True), (0.0, True), (0.0, False)):
        config = LoRAConfig(epochs=2, batch_size=4, dropout=dropout)
        report = train(lm, TrainingData(ROWS), config, plan=MemoryPlan(checkpoint=checkpoint))
        lm.detach_adapter()
        found.append(report.losses)
    assert found[0] == found[1]
    assert found[2] == pytest.approx(found[3], rel=1e-5)


def test_it_touches_these_blocks_only_and_is_undone_after_an_error() -> None:
    lm, other = random_models.random_model("llama"), random_models.random_model("llama")
    first, second, _ = lm.model.layers
    kind, call = type(first), type(first).__call__
    names = list(random_models.bits(lm.model.parameters()))
    with pytest.raises(RuntimeError), gradient_checkpointing([first], RandomKeys()):
        assert type(first) is not kind and isinstance(first, kind)
        assert type(second) is type(other.model.layers[0]) is kind
        assert list(random_models.bits(lm.model.parameters())) == names
        raise RuntimeError
    assert type(first) is type(second) is kind
    assert kind.__call__ is call


def test_a_block_used_in_several_places_is_checkpointed_once() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = [0]

        def __call__(self, x: mx.array) -> mx.array:
            self.calls[0] += 1
            return x * 2

    block = Block()
    with gradient_checkpointing([block, block], RandomKeys()):
        assert float(mx.grad(lambda x: block(x))(mx.array(1.0))) == 2
    assert block.calls[0] == 2  # forward, and once more for the gradient


@pytest.mark.parametrize("way", ["packed", "padded", "plain"])
def test_it_holds_less_memory(way: ForwardMode) -> None:
    """Measured over 24 rows of 64 tokens through four blocks."""
    lm = random_models.random_model("llama", num_hidden_layers=4, intermediate_size=512)
    weights = random_models.with_adapter(lm, num_layers=4)
    rng = np.random.default_rng(0)
    rows = [random_models.random_row(rng, 64) for _ in range(24)]
    peaks = []
    for checkpoint in (False, True):
        computing = GradientComputer(lm, rows, way, MemoryPlan(batch_tokens=10_000, checkpoint=checkpoint), share=False)
        with computing.opened():
            mx.eval(computing.gradient(weights, range(24), (0,)))
            mx.clear_cache()
            mx.reset_peak_memory()
            before = mx.get_active_memory()
            mx.eval(computing.gradient(weights, range(24), (0,)))
            peaks.append(mx.get_peak_memory() - before)
    assert peaks[1] < 0.7 * peaks[0]
