"""A model run in parts: activations of the frozen layers, the head on targets only, isolated samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_personal import LanguageModel
from mlx_personal.finetune.data.packing import pack
from mlx_personal.finetune.forward import losses as losses_module
from mlx_personal.finetune.forward.losses import cross_entropies
from mlx_personal.finetune.forward.split_model import BatchLayout, SplitModel, UnsupportedModelError
from tests.support import random_models

SAMPLES = random_models.prefix_sharing_samples()


@pytest.fixture
def lm() -> LanguageModel:
    """A Llama of three layers, the last one with an adapter."""
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm, num_layers=1)
    return lm


def packed(share: bool) -> BatchLayout:
    tokens = [row.inputs for row in SAMPLES]
    segments = pack(tokens, [len(row) - 1 if share else 0 for row in tokens])
    return BatchLayout(mx.array(np.concatenate([tokens[p.sample][p.start : p.stop] for p in segments])[None]), segments)


def expected_activations(lm: LanguageModel, inputs: np.ndarray, layers: int) -> np.ndarray:
    """Return the output of these layers for one sample: the embedding and the layers, called one by one."""
    x = lm.backbone.embed_tokens(mx.array(inputs[None]))
    for layer in lm.model.layers[:layers]:
        x = layer(x, nn.MultiHeadAttention.create_additive_causal_mask(len(inputs)), None)
    return np.array(x[0])


def positions_in_samples(layout: BatchLayout) -> Iterator[tuple[int, int, int]]:
    """Yield (position in the sequence, sample, position in the sample) of all tokens."""
    at = 0
    for segment in layout.segments or ():
        for position in range(segment.start, segment.stop):
            yield at, segment.sample, position
            at += 1


# Frozen layers


@pytest.mark.parametrize("share", [False, True])
def test_frozen_activations_equal_those_of_each_sample_alone(lm: LanguageModel, share: bool) -> None:
    network, layout = SplitModel(lm), packed(share)
    assert network.first_trained == 2
    with network.patched():
        activations = np.array(network.frozen_activations(layout))[0]
    expected = [expected_activations(lm, row.inputs, 2) for row in SAMPLES]
    for at, sample, position in positions_in_samples(layout):
        assert np.allclose(activations[at], expected[sample][position], atol=1e-5)


def test_the_frozen_layers_are_not_computed_again(lm: LanguageModel) -> None:
    network, layout = SplitModel(lm), packed(True)
    called: list[int] = []
    with network.patched():
        activations = network.frozen_activations(layout)
        for i, layer in enumerate(lm.model.layers):
            object.__setattr__(layer.mlp, "__class__", counting(type(layer.mlp), called, i))
        with network.use_layout(layout):
            mx.eval(network.hidden_at_targets(layout.inputs, activations, np.array([3, 4])))
        assert called == [2]
        with network.use_layout(layout):
            mx.eval(network.hidden_at_targets(layout.inputs, None, np.array([3, 4])))
        assert called == [2, 0, 1, 2]


def counting(module_class: Any, called: list[int], number: int) -> Any:
    def call(self: Any, x: mx.array) -> mx.array:
        called.append(number)
        return module_class.__call__(self, x)

    return type(module_class.__name__, (module_class,), {"__call__": call})


# The head


@pytest.mark.parametrize("family", ["llama", "llama-untied", "gemma2", "granite", "gemma3"])
def test_the_head_gives_the_models_logits_at_the_target_positions_only(family: str) -> None:
    """Soft caps, scales and tied embeddings included."""
    lm = random_models.random_model(family)
    random_models.with_adapter(lm, num_layers=1)
    row = SAMPLES[0].inputs
    target_positions = np.array([2, len(row) - 1, 0])
    expected = np.array(lm.model(mx.array(row[None])))[0][target_positions]
    network, layout = SplitModel(lm), BatchLayout(mx.array(row[None]))
    with network.patched():
        activations = network.frozen_activations(layout)
        with network.use_layout(layout):
            hidden = network.hidden_at_targets(layout.inputs, activations, target_positions)
        assert hidden.shape == (1, 3, 64)
        assert np.allclose(np.array(network.logits(hidden))[0], expected, atol=1e-5)


# Isolation


@pytest.mark.parametrize("share", [False, True])
def test_a_sample_does_not_see_the_tokens_of_others(lm: LanguageModel, share: bool) -> None:
    """Bit for bit, whatever the other samples contain."""
    network, layout = SplitModel(lm), packed(share)
    assert layout.segments is not None
    starts = np.cumsum([0, *map(len, layout.segments)])
    changed_segment = next(
        i
        for i in range(len(layout.segments))
        if len(layout.segments[i]) > 4 and i not in {p.parent for p in layout.segments}
    )
    inputs = np.array(layout.inputs)
    inputs[0, starts[changed_segment] : starts[changed_segment + 1]] += 1
    all_positions = np.arange(layout.inputs.shape[1])

    def hidden(tokens: mx.array) -> np.ndarray:
        changed = BatchLayout(tokens, layout.segments)
        with network.use_layout(changed):
            return np.array(network.hidden_at_targets(tokens, network.frozen_activations(changed), all_positions))[0]

    with network.patched():
        before, after = hidden(layout.inputs), hidden(mx.array(inputs))
    for i in range(len(layout.segments)):
        segment = slice(starts[i], starts[i + 1])
        assert (before[segment] == after[segment]).all() == (i != changed_segment)


def test_no_gradient_reaches_another_sample(lm: LanguageModel) -> None:
    network, layout = SplitModel(lm), packed(False)
    assert layout.segments is not None
    starts = np.cumsum([0, *map(len, layout.segments)])
    with network.patched():
        activations = network.frozen_activations(layout)
        for i in (0, 4, len(SAMPLES) - 1):

            def sample_loss(activations: mx.array, i: int = i) -> mx.array:
                target_positions = np.arange(starts[i], starts[i + 1])
                return network.hidden_at_targets(layout.inputs, activations, target_positions).square().sum()

            with network.use_layout(layout):
                reached = np.abs(np.array(mx.grad(sample_loss)(activations)))[0].sum(axis=1) > 0
            assert reached[starts[i] : starts[i + 1]].all()
            assert reached.sum() == len(SAMPLES[i])


# Restored


def test_a_model_is_restored_even_after_an_error(lm: LanguageModel) -> None:
    classes = [type(module) for _, module in lm.model.named_modules()]
    names = list(random_models.bits(lm.model.parameters()))
    attention, tokens = mx.fast.scaled_dot_product_attention, mx.array(SAMPLES[0].inputs[None])
    expected = np.array(lm.model(tokens))
    network = SplitModel(lm)
    with pytest.raises(ZeroDivisionError), network.patched(), network.use_layout(packed(True)):
        assert list(random_models.bits(lm.model.parameters())) == names
        raise ZeroDivisionError
    assert [type(module) for _, module in lm.model.named_modules()] == classes
    assert mx.fast.scaled_dot_product_attention is attention
    assert (np.array(lm.model(tokens)) == expected).all()


def test_a_patched_model_still_works_and_others_are_untouched(lm: LanguageModel) -> None:
    other = random_models.random_model("llama")
    tokens = mx.array(SAMPLES[0].inputs[None])
    expected = np.array(lm.model(tokens)), np.array(other.model(tokens))
    network = SplitModel(lm)
    with network.patched():
        # Up to rounding, because on a CPU both use functions of this package.
        np.testing.assert_allclose(np.array(lm.model(tokens)), expected[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.array(other.model(tokens)), expected[1], rtol=1e-5, atol=1e-5)
        assert type(other.model.layers[0]) is not type(lm.model.layers[0])


def test_a_model_without_layers_in_sequence_is_not_supported(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = SplitModel(lm)
    with network.patched():
        monkeypatch.setattr(type(lm.model), "__call__", lambda self, inputs: inputs)
        with pytest.raises(UnsupportedModelError, match="not called one after the other"):
            network.frozen_activations(BatchLayout(mx.array(SAMPLES[0].inputs[None])))


# Cross entropy in chunks


def cross_entropy(hidden: np.ndarray, head: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the sum and the gradient with respect to the hidden states, in float64."""
    logits = hidden @ head.T
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    rows = np.arange(len(targets))
    loss = -np.log(probabilities[rows, targets]).sum()
    probabilities[rows, targets] -= 1
    return float(loss), probabilities @ head


@pytest.mark.parametrize("count", [1, 16, 17, 32, 50])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_chunks_give_the_float64_sum_and_gradient(count: int, dtype: mx.Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses_module, "CHUNK_BYTES", 0)  # 16 targets per chunk
    rng = np.random.default_rng(0)

    def as_dtype(array: np.ndarray) -> mx.array:
        return mx.array(array.astype(np.float32)).astype(dtype)

    hidden, head = as_dtype(rng.normal(size=(1, count, 24))), as_dtype(rng.normal(size=(40, 24)))
    targets = rng.integers(0, 40, count).astype(np.int32)
    ones = mx.ones(count)
    widths: list[int] = []

    def logits(hidden: mx.array) -> mx.array:
        widths.append(hidden.shape[1])
        return hidden @ head.T

    # Times three, to check that the cotangent of the loss is used.
    result = mx.value_and_grad(lambda h: 3 * (cross_entropies(logits, h, mx.array(targets)) * ones).sum())(hidden)
    exact_hidden, exact_head = (np.array(a.astype(mx.float32), np.float64) for a in (hidden[0], head))
    loss, gradient = cross_entropy(exact_hidden, exact_head, targets.astype(int))
    tolerance = 1e-5 if dtype == mx.float32 else 2e-2
    assert result[0].dtype == mx.float32 and result[1].dtype == dtype
    assert float(result[0]) == pytest.approx(3 * loss, rel=tolerance)
    assert random_models.distance(result[1], mx.array(3 * gradient[None].astype(np.float32))) < tolerance
    assert max(widths) <= 16


@pytest.mark.slow
def test_full_logits_are_never_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 targets of a vocabulary of 20,000 are 320 MB of logits alone, and a chunk is 8 MB of them."""
    monkeypatch.setattr(losses_module, "CHUNK_BYTES", 8 * 2**20)
    head = mx.random.normal((20_000, 8), key=mx.random.key(0))
    hidden, targets = mx.random.normal((1, 4000, 8), key=mx.random.key(1)), mx.zeros((4000,), mx.int32)
    ones = mx.ones(4000)
    mx.eval(head, hidden, ones)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(mx.value_and_grad(lambda h: (cross_entropies(lambda x: x @ head.T, h, targets) * ones).sum())(hidden))
    assert mx.get_peak_memory() - before < 200e6
