"""A model taken apart: what its frozen blocks give, the head on targets alone, rows that do not see each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_personal import LanguageModel
from mlx_personal.finetune.data.packing import pack
from mlx_personal.finetune.forward import cross_entropy as loss_module
from mlx_personal.finetune.forward.cross_entropy import summed_cross_entropy
from mlx_personal.finetune.forward.split_model import BatchLayout, SplitModel, UnsuitableError
from tests.support import random_models

ROWS = random_models.a_family_of_rows()


@pytest.fixture
def lm() -> LanguageModel:
    """A Llama of three blocks, the last one with an adapter."""
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm, num_layers=1)
    return lm


def packed(share: bool) -> BatchLayout:
    tokens = [row.inputs for row in ROWS]
    segments = pack(tokens, [len(row) - 1 if share else 0 for row in tokens])
    return BatchLayout(mx.array(np.concatenate([tokens[p.sample][p.start : p.stop] for p in segments])[None]), segments)


def states_by_hand(lm: LanguageModel, inputs: np.ndarray, blocks: int) -> np.ndarray:
    """What these blocks give for one row: the embedding and the blocks, called one by one."""
    x = lm.backbone.embed_tokens(mx.array(inputs[None]))
    for block in lm.model.layers[:blocks]:
        x = block(x, nn.MultiHeadAttention.create_additive_causal_mask(len(inputs)), None)
    return np.array(x[0])


def places_of_rows(layout: BatchLayout) -> Iterator[tuple[int, int, int]]:
    """(place in the sequence, row, position) of all tokens."""
    at = 0
    for segment in layout.segments or ():
        for position in range(segment.start, segment.stop):
            yield at, segment.sample, position
            at += 1


# Frozen states


@pytest.mark.parametrize("share", [False, True])
def test_frozen_states_are_those_of_each_row_alone(lm: LanguageModel, share: bool) -> None:
    network, layout = SplitModel(lm), packed(share)
    assert network.first == 2
    with network.opened():
        states = np.array(network.frozen_activations(layout))[0]
    wanted = [states_by_hand(lm, row.inputs, 2) for row in ROWS]
    for place, row, position in places_of_rows(layout):
        assert np.allclose(states[place], wanted[row][position], atol=1e-5)


def test_the_blocks_below_are_not_computed_again(lm: LanguageModel) -> None:
    network, layout = SplitModel(lm), packed(True)
    called: list[int] = []
    with network.opened():
        states = network.frozen_activations(layout)
        for i, block in enumerate(lm.model.layers):
            object.__setattr__(block.mlp, "__class__", counting(type(block.mlp), called, i))
        with network.rows(layout):
            mx.eval(network.hidden_at_targets(layout.inputs, states, np.array([3, 4])))
        assert called == [2]
        with network.rows(layout):
            mx.eval(network.hidden_at_targets(layout.inputs, None, np.array([3, 4])))
        assert called == [2, 0, 1, 2]


def counting(kind: Any, called: list[int], number: int) -> Any:
    def call(self: Any, x: mx.array) -> mx.array:
        called.append(number)
        return kind.__call__(self, x)

    return type(kind.__name__, (kind,), {"__call__": call})


# The head


@pytest.mark.parametrize("family", ["llama", "llama-untied", "gemma2", "granite", "gemma3"])
def test_the_head_gives_the_logits_of_the_whole_model_and_sees_only_its_places(family: str) -> None:
    """Soft caps, scales and tied embeddings included."""
    lm = random_models.random_model(family)
    random_models.with_adapter(lm, num_layers=1)
    row = ROWS[0].inputs
    places = np.array([2, len(row) - 1, 0])
    wanted = np.array(lm.model(mx.array(row[None])))[0][places]
    network, layout = SplitModel(lm), BatchLayout(mx.array(row[None]))
    with network.opened():
        states = network.frozen_activations(layout)
        with network.rows(layout):
            hidden = network.hidden_at_targets(layout.inputs, states, places)
        assert hidden.shape == (1, 3, 64)
        assert np.allclose(np.array(network.logits(hidden))[0], wanted, atol=1e-5)


# Isolation


@pytest.mark.parametrize("share", [False, True])
def test_a_row_is_blind_to_the_tokens_of_others(lm: LanguageModel, share: bool) -> None:
    """Bit for bit: whatever stands in the other rows."""
    network, layout = SplitModel(lm), packed(share)
    assert layout.segments is not None
    starts = np.cumsum([0, *map(len, layout.segments)])
    changed_piece = next(
        i
        for i in range(len(layout.segments))
        if len(layout.segments[i]) > 4 and i not in {p.parent for p in layout.segments}
    )
    inputs = np.array(layout.inputs)
    inputs[0, starts[changed_piece] : starts[changed_piece + 1]] += 1
    every = np.arange(layout.inputs.shape[1])

    def hidden(tokens: mx.array) -> np.ndarray:
        moved = BatchLayout(tokens, layout.segments)
        with network.rows(moved):
            return np.array(network.hidden_at_targets(tokens, network.frozen_activations(moved), every))[0]

    with network.opened():
        before, after = hidden(layout.inputs), hidden(mx.array(inputs))
    for i in range(len(layout.segments)):
        own = slice(starts[i], starts[i + 1])
        assert (before[own] == after[own]).all() == (i != changed_piece)


def test_no_gradient_reaches_another_row(lm: LanguageModel) -> None:
    network, layout = SplitModel(lm), packed(False)
    assert layout.segments is not None
    starts = np.cumsum([0, *map(len, layout.segments)])
    with network.opened():
        states = network.frozen_activations(layout)
        for i in (0, 4, len(ROWS) - 1):

            def of_row(states: mx.array, i: int = i) -> mx.array:
                places = np.arange(starts[i], starts[i + 1])
                return network.hidden_at_targets(layout.inputs, states, places).square().sum()

            with network.rows(layout):
                reached = np.abs(np.array(mx.grad(of_row)(states)))[0].sum(axis=1) > 0
            assert reached[starts[i] : starts[i + 1]].all()
            assert reached.sum() == len(ROWS[i])


# Undone


def test_a_model_is_as_before_when_it_is_closed_even_after_an_error(lm: LanguageModel) -> None:
    kinds = [type(module) for _, module in lm.model.named_modules()]
    names = list(random_models.bits(lm.model.parameters()))
    attention, tokens = mx.fast.scaled_dot_product_attention, mx.array(ROWS[0].inputs[None])
    wanted = np.array(lm.model(tokens))
    network = SplitModel(lm)
    with pytest.raises(ZeroDivisionError), network.opened(), network.rows(packed(True)):
        assert list(random_models.bits(lm.model.parameters())) == names
        raise ZeroDivisionError
    assert [type(module) for _, module in lm.model.named_modules()] == kinds
    assert mx.fast.scaled_dot_product_attention is attention
    assert (np.array(lm.model(tokens)) == wanted).all()


def test_an_opened_model_still_answers_and_others_are_untouched(lm: LanguageModel) -> None:
    other = random_models.random_model("llama")
    tokens = mx.array(ROWS[0].inputs[None])
    wanted = np.array(lm.model(tokens)), np.array(other.model(tokens))
    network = SplitModel(lm)
    with network.opened():
        # To rounding: on a CPU both compute with functions of this package.
        np.testing.assert_allclose(np.array(lm.model(tokens)), wanted[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.array(other.model(tokens)), wanted[1], rtol=1e-5, atol=1e-5)
        assert type(other.model.layers[0]) is not type(lm.model.layers[0])


def test_a_model_without_blocks_in_a_row_is_unsuitable(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    network = SplitModel(lm)
    with network.opened():
        monkeypatch.setattr(type(lm.model), "__call__", lambda self, inputs: inputs)
        with pytest.raises(UnsuitableError, match="not called one after the other"):
            network.frozen_activations(BatchLayout(mx.array(ROWS[0].inputs[None])))


# The loss in chunks


def cross_entropy(hidden: np.ndarray, head: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """Sum and gradient by the hidden states, in float64."""
    logits = hidden @ head.T
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    rows = np.arange(len(targets))
    loss = -np.log(shares[rows, targets]).sum()
    shares[rows, targets] -= 1
    return float(loss), shares @ head


@pytest.mark.parametrize("count", [1, 16, 17, 32, 50])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_chunks_give_the_sum_and_gradient_of_float64(
    count: int, dtype: mx.Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", 0)  # 16 targets a chunk
    rng = np.random.default_rng(0)
    as_kind = lambda array: mx.array(array.astype(np.float32)).astype(dtype)  # noqa: E731
    hidden, head = as_kind(rng.normal(size=(1, count, 24))), as_kind(rng.normal(size=(40, 24)))
    targets = rng.integers(0, 40, count).astype(np.int32)
    ones = mx.ones(count)
    widths: list[int] = []

    def logits(hidden: mx.array) -> mx.array:
        widths.append(hidden.shape[1])
        return hidden @ head.T

    # Times three: what comes back through the loss is its cotangent's multiple.
    found = mx.value_and_grad(lambda h: 3 * summed_cross_entropy(logits, h, mx.array(targets), ones))(hidden)
    loss, gradient = cross_entropy(
        *(np.array(a.astype(mx.float32), np.float64) for a in (hidden[0], head)), targets.astype(int)
    )
    bound = 1e-5 if dtype == mx.float32 else 2e-2
    assert found[0].dtype == mx.float32 and found[1].dtype == dtype
    assert float(found[0]) == pytest.approx(3 * loss, rel=bound)
    assert random_models.distance(found[1], mx.array(3 * gradient[None].astype(np.float32))) < bound
    assert max(widths) <= 16


def test_full_logits_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 targets of a vocabulary of 20,000 are 320 MB of logits alone, and a chunk is 8 MB of them."""
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", 8 * 2**20)
    head = mx.random.normal((20_000, 8), key=mx.random.key(0))
    hidden, targets = mx.random.normal((1, 4000, 8), key=mx.random.key(1)), mx.zeros((4000,), mx.int32)
    ones = mx.ones(4000)
    mx.eval(head, hidden, ones)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(mx.value_and_grad(lambda h: summed_cross_entropy(lambda x: x @ head.T, h, targets, ones))(hidden))
    assert mx.get_peak_memory() - before < 200e6
