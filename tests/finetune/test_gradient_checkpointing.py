"""Checkpointed layers give the same gradient with less memory, and are restored afterwards."""

from __future__ import annotations

import itertools
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map

from mlx_personal import LanguageModel
from mlx_personal.finetune import LoRAConfig, TrainingData, plan_training, train
from mlx_personal.finetune.forward.dropout import RandomKeys, keyed_dropout
from mlx_personal.finetune.forward.equivalence import ForwardMode
from mlx_personal.finetune.forward.gradient_checkpointing import gradient_checkpointing
from mlx_personal.finetune.forward.gradients import GradientComputer
from mlx_personal.finetune.planning.memory import MemoryPlan
from tests.support import random_models
from tests.support.cases import quick_cases

SAMPLES = random_models.prefix_sharing_samples()


def gradient(
    lm: LanguageModel, weights: dict[str, Any], mode: ForwardMode, checkpoint: bool, seed: int
) -> tuple[float, Any]:
    computer = GradientComputer(
        lm, SAMPLES, mode, MemoryPlan(micro_batch_tokens=200, gradient_checkpointing=checkpoint), share_prefixes=False
    )
    with computer.prepared():
        loss, grad = computer.gradient(weights, range(len(SAMPLES)), (seed,))
    return float(loss), grad


@pytest.mark.parametrize(
    ("family", "mode"),
    quick_cases(
        itertools.product(["llama", "gemma3"], ["packed", "padded", "plain"]), ("llama", "packed"), ("gemma3", "padded")
    ),
)
def test_the_gradient_is_the_same(family: str, mode: ForwardMode) -> None:
    lm = random_models.random_model(family)
    weights = random_models.with_adapter(lm)
    expected, result = (gradient(lm, weights, mode, checkpoint, 0) for checkpoint in (False, True))
    assert result[0] == pytest.approx(expected[0], rel=1e-6)
    assert random_models.distance(result[1], expected[1]) < 1e-5
    assert random_models.distance(result[1], random_models.reference_gradient(lm, weights, SAMPLES)) < 1e-5


@pytest.mark.parametrize("mode", quick_cases(["packed", "padded", "plain"], "packed"))
def test_with_dropout_it_is_the_numerical_gradient_of_the_same_loss(mode: ForwardMode) -> None:
    """The same seed gives the same mask, so losses on either side of the weights give the directional derivative."""
    lm = random_models.random_model("llama")
    weights = random_models.with_adapter(lm, dropout=0.4)
    grad = gradient(lm, weights, mode, True, 1)[1]
    norm = np.linalg.norm(random_models.flat(grad))
    up, down = (
        gradient(lm, tree_map(lambda w, g, s=step: w + s * g / norm, weights, grad), mode, True, 1)[0]
        for step in (0.01, -0.01)
    )
    assert (up - down) / 0.02 == pytest.approx(norm, rel=1e-2)
    assert gradient(lm, weights, mode, True, 2)[0] != gradient(lm, weights, mode, True, 1)[0]


def test_a_recomputed_layer_draws_the_same_dropout_mask() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.dropout = mx.ones((1000,)), nn.Dropout(0.5)

        def __call__(self, x: mx.array) -> mx.array:
            return self.dropout(self.dropout(x * self.weight))

    layer, keys = Layer(), RandomKeys(0)
    with keyed_dropout([layer], keys), gradient_checkpointing([layer], keys):
        # The output is linear in the input: the gradient of its sum is the output, if both passes draw the same mask.
        result = mx.value_and_grad(lambda x: layer(x).sum())(mx.ones((1000,)))
        total, grad = float(result[0]), np.array(result[1])
    assert set(np.unique(grad)) == {0.0, 4.0}
    assert grad.sum() == total
    assert 800 < total < 1200


def test_later_layers_draw_other_masks() -> None:
    """The keys advance after the layer and are not set back by its second pass."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.dropout = mx.ones((1000,)), nn.Dropout(0.5)

        def __call__(self, x: mx.array) -> mx.array:
            return self.dropout(x * self.weight)

    layers, keys = [Layer(), Layer()], RandomKeys(0)
    with keyed_dropout(layers, keys), gradient_checkpointing(layers, keys):
        grad = np.array(mx.grad(lambda x: layers[1](layers[0](x)).sum())(mx.ones((1000,))))
        first, second = (np.array(layer(mx.ones((1000,)))) for layer in layers)
    assert set(np.unique(grad)) == {0.0, 4.0}  # the same mask twice would keep a half instead of a quarter
    assert 180 < (grad > 0).sum() < 320
    assert (first != second).any()


def test_it_can_be_nested() -> None:
    lm = random_models.random_model("llama")
    weights = random_models.with_adapter(lm)
    expected, layer_class, keys = gradient(lm, weights, "packed", False, 3), type(lm.model.layers[1]), RandomKeys()
    with gradient_checkpointing(lm.model.layers, keys), gradient_checkpointing(lm.model.layers, keys):
        for result in (gradient(lm, weights, "packed", checkpoint, 3) for checkpoint in (True, False)):
            assert result[0] == pytest.approx(expected[0], rel=1e-6)
            assert random_models.distance(result[1], expected[1]) < 1e-5
    assert type(lm.model.layers[1]) is layer_class


@pytest.mark.slow
def test_successive_trainings_are_equal() -> None:
    lm = random_models.random_model("llama")
    result = []
    for dropout, checkpoint in ((0.2, True), (0.2, True), (0.0, True), (0.0, False)):
        config = LoRAConfig(epochs=2, batch_size=4, dropout=dropout)
        report = train(
            lm, plan_training(TrainingData(SAMPLES), config, memory=MemoryPlan(gradient_checkpointing=checkpoint))
        )
        lm.detach_adapter()
        result.append(report.losses)
    assert result[0] == result[1]
    assert result[2] == pytest.approx(result[3], rel=1e-5)


def test_it_patches_the_given_layers_only_and_is_undone_after_an_error() -> None:
    lm, other = random_models.random_model("llama"), random_models.random_model("llama")
    first, second, _ = lm.model.layers
    layer_class, call = type(first), type(first).__call__
    names = list(random_models.bits(lm.model.parameters()))
    with pytest.raises(RuntimeError), gradient_checkpointing([first], RandomKeys()):
        assert type(first) is not layer_class and isinstance(first, layer_class)
        assert type(second) is type(other.model.layers[0]) is layer_class
        assert list(random_models.bits(lm.model.parameters())) == names
        raise RuntimeError
    assert type(first) is type(second) is layer_class
    assert layer_class.__call__ is call


def test_a_layer_used_at_several_depths_is_checkpointed_once() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = [0]

        def __call__(self, x: mx.array) -> mx.array:
            self.calls[0] += 1
            return x * 2

    layer = Layer()
    with gradient_checkpointing([layer, layer], RandomKeys()):
        assert float(mx.grad(lambda x: layer(x))(mx.array(1.0))) == 2
    assert layer.calls[0] == 2  # forward, and once more for the gradient


@pytest.mark.parametrize("mode", quick_cases(["packed", "padded", "plain"], "packed"))
def test_it_takes_less_memory(mode: ForwardMode) -> None:
    """Measured with 12 samples of 64 tokens and four layers."""
    lm = random_models.random_model("llama", num_hidden_layers=4, intermediate_size=512)
    weights = random_models.with_adapter(lm, num_layers=4)
    rng = np.random.default_rng(0)
    samples = [random_models.random_sample(rng, 64) for _ in range(12)]
    peaks = []
    for checkpoint in (False, True):
        computer = GradientComputer(
            lm,
            samples,
            mode,
            MemoryPlan(micro_batch_tokens=10_000, gradient_checkpointing=checkpoint),
            share_prefixes=False,
        )
        with computer.prepared():
            mx.eval(computer.gradient(weights, range(12), (0,)))
            mx.clear_cache()
            mx.reset_peak_memory()
            before = mx.get_active_memory()
            mx.eval(computer.gradient(weights, range(12), (0,)))
            peaks.append(mx.get_peak_memory() - before)
    assert peaks[1] < 0.7 * peaks[0]
