"""Dropout with reproducible keys: its rate, the same mask from the same key, and in both passes of a layer."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.finetune.forward import dropout as dropout_module
from mlx_personal.finetune.forward.dropout import RandomKeys, keyed_dropout
from mlx_personal.finetune.forward.gradient_checkpointing import gradient_checkpointing
from mlx_personal.runtime.device import device_name


@pytest.fixture(params=["this machine", "gpu"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Draw as on this machine, and as on a GPU."""
    name = device_name() if request.param == "this machine" else "metal"
    monkeypatch.setattr(dropout_module, "device_name", lambda: name)
    return name


def apply_dropout(rate: float, x: mx.array, keys: RandomKeys) -> np.ndarray:
    module = nn.Dropout(rate)
    with keyed_dropout([module], keys):
        return np.array(module(x).astype(mx.float32), np.float64)


@pytest.mark.parametrize("rate", [1e-4, 0.05, 0.5, 0.9, 0.99])
def test_the_rate_is_met_and_the_mean_is_kept(rate: float, device: str) -> None:
    count = 1_000_000
    result = apply_dropout(rate, mx.full((count,), 3.0), RandomKeys(0))
    assert np.unique(result).tolist() == pytest.approx([0, 3 / (1 - rate)], rel=1e-6)
    # Five standard deviations, and half of the resolution of 1 / 65536.
    bound = 5 * np.sqrt(rate * (1 - rate) / count) + 2.0**-17
    assert abs((result == 0).mean() - rate) < bound
    assert abs(result.mean() / 3 - 1) < bound / (1 - rate)


def test_masks_have_no_pattern(device: str) -> None:
    """Neighbors in each direction are independent."""
    mask = (apply_dropout(0.5, mx.ones((512, 512)), RandomKeys(4)) > 0).astype(np.float64) - 0.5
    for shifted in (np.roll(mask, step, axis) for axis in (0, 1) for step in (1, 2, 4)):
        assert abs((mask * shifted).mean() * 4) < 5 / 512
    assert np.abs(mask.mean(axis=0)).max() < 6 * 0.5 / np.sqrt(512)
    assert np.abs(mask.mean(axis=1)).max() < 6 * 0.5 / np.sqrt(512)


def test_the_same_key_gives_the_same_mask_and_others_give_others(device: str) -> None:
    x, keys = mx.ones((64, 64)), RandomKeys(1, 2)
    first, second = apply_dropout(0.5, x, keys), apply_dropout(0.5, x, keys)
    keys.reseed(1, 2)
    assert (apply_dropout(0.5, x, keys) == first).all()
    assert (apply_dropout(0.5, x, keys) == second).all()
    # Half of the elements agree by chance: 2,048, with a standard deviation of 32.
    for other in (second, *(apply_dropout(0.5, x, RandomKeys(*seed)) for seed in ((1, 3), (2, 1), (1,), (1, 2, 1)))):
        assert abs((other == first).sum() - 2048) < 6 * 32


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 999), st.integers(0, 9)), unique=True, max_size=6))
@settings(max_examples=20, deadline=None)
def test_all_keys_of_a_training_differ(seeds: list[tuple[int, int, int]]) -> None:
    result = []
    for seed in seeds:
        keys = RandomKeys(*seed)
        result += [apply_dropout(0.5, mx.ones((128,)), keys).tobytes() for _ in range(3)]
    assert len(set(result)) == len(result)


def test_masks_do_not_depend_on_other_random_numbers() -> None:
    x = mx.ones((256,))
    mx.random.seed(0)
    np.random.seed(0)
    first = apply_dropout(0.5, x, RandomKeys(7))
    mx.random.uniform(shape=(3,))
    np.random.random(3)
    state: Any = mx.random.state
    before = [np.array(part) for part in state]
    assert (apply_dropout(0.5, x, RandomKeys(7)) == first).all()
    assert all((np.array(part) == previous).all() for part, previous in zip(state, before, strict=True))


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (3,), (5, 7), (2, 3, 5)])
def test_any_shape_is_accepted(shape: tuple[int, ...], device: str) -> None:
    result = apply_dropout(0.5, mx.ones(shape), RandomKeys(0))
    assert result.shape == shape
    assert set(np.unique(result)) <= {0.0, 2.0}


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_the_dtype_is_kept(dtype: mx.Dtype, device: str) -> None:
    module = nn.Dropout(0.5)
    with keyed_dropout([module], RandomKeys(0)):
        result = module(mx.ones((32,), dtype))
    assert result.dtype == dtype
    assert set(np.unique(np.array(result.astype(mx.float32)))) == {0.0, 2.0}


def test_the_gradient_has_the_same_mask_as_the_value(device: str) -> None:
    module, x = nn.Dropout(0.3), mx.random.normal((400,), key=mx.random.key(0))
    with keyed_dropout([module], RandomKeys(0)):
        value, gradient = mx.vjp(module, [x], [mx.ones(400)])
    np.testing.assert_allclose(np.array(value[0]), np.array(x * gradient[0]), rtol=1e-6)
    assert set(np.unique(np.array(gradient[0]))) == {np.float32(0), np.float32(1 / 0.7)}


@pytest.mark.parametrize("training", [True, False])
def test_without_dropout_or_training_nothing_is_drawn(training: bool, device: str) -> None:
    module, keys = nn.Dropout(0.0 if training else 0.5), RandomKeys(3)
    module.train(training)
    before, x = keys.state, mx.random.normal((9,), key=mx.random.key(0))
    with keyed_dropout([module], keys):
        assert module(x) is x
    assert keys.state == before


def test_only_the_given_layers_draw_and_only_inside(device: str) -> None:
    patched_layer, other, keys = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)), nn.Dropout(0.5), RandomKeys(3)
    before = keys.state
    with pytest.raises(ZeroDivisionError), keyed_dropout([patched_layer, patched_layer], keys):
        other(mx.ones(9))
        assert keys.state == before
        patched_layer(mx.ones((9, 2)))
        assert keys.state != before
        raise ZeroDivisionError
    state = keys.state
    patched_layer(mx.ones((9, 2)))
    assert keys.state == state
    assert type(patched_layer.layers[0]) is nn.Dropout


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_checkpointed_layer_draws_the_same_masks_in_both_passes(rate: float, device: str) -> None:
    """Three layers that are linear in x: value and gradient are the same product if the masks are the same."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.first, self.second = mx.ones(500), nn.Dropout(rate), nn.Dropout(rate)

        def __call__(self, x: mx.array) -> mx.array:
            return self.second(self.first(x * self.scale))

    layers, keys = [Layer() for _ in range(3)], RandomKeys(5, 6)
    states = []

    def forward(x: mx.array) -> mx.array:
        result: mx.array = layers[2](layers[1](layers[0](x)))
        states.append(keys.state)
        return result

    with keyed_dropout(layers, keys), gradient_checkpointing(layers, keys):
        value, gradient = mx.vjp(forward, [mx.ones(500)], [mx.ones(500)])
        mx.eval(value, gradient)
        np.testing.assert_array_equal(np.array(value[0]), np.array(gradient[0]))
        assert states == [keys.state]  # the second pass does not set the keys back
        # All six masks were different ones.
        assert abs(float((value[0] > 0).astype(mx.float32).mean()) - (1 - rate) ** 6) < 0.1
        keys.reseed(5, 6)
        again = layers[2](layers[1](layers[0](mx.ones(500))))
        np.testing.assert_array_equal(np.array(again), np.array(value[0]))
