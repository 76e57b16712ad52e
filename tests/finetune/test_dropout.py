"""Dropout from keys of the training's own: how much is dropped, the same again from the same key, in both passes."""

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


@pytest.fixture(params=["here", "gpu"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Drawn as on this machine, and as on a GPU."""
    name = device_name() if request.param == "here" else "metal"
    monkeypatch.setattr(dropout_module, "device_name", lambda: name)
    return name


def dropped(share: float, x: mx.array, keys: RandomKeys) -> np.ndarray:
    module = nn.Dropout(share)
    with keyed_dropout([module], keys):
        return np.array(module(x).astype(mx.float32), np.float64)


@pytest.mark.parametrize("share", [1e-4, 0.05, 0.5, 0.9, 0.99])
def test_this_share_is_dropped_and_the_mean_stays(share: float, device: str) -> None:
    count = 1_000_000
    found = dropped(share, mx.full((count,), 3.0), RandomKeys(0))
    assert np.unique(found).tolist() == pytest.approx([0, 3 / (1 - share)], rel=1e-6)
    # Five times what chance does, and half of a 65536th.
    bound = 5 * np.sqrt(share * (1 - share) / count) + 2.0**-17
    assert abs((found == 0).mean() - share) < bound
    assert abs(found.mean() / 3 - 1) < bound / (1 - share)


def test_what_is_dropped_follows_no_pattern(device: str) -> None:
    """Neighbours in each direction are as independent as a row of coins."""
    kept = (dropped(0.5, mx.ones((512, 512)), RandomKeys(4)) > 0).astype(np.float64) - 0.5
    for shifted in (np.roll(kept, step, axis) for axis in (0, 1) for step in (1, 2, 4)):
        assert abs((kept * shifted).mean() * 4) < 5 / 512
    assert np.abs(kept.mean(axis=0)).max() < 6 * 0.5 / np.sqrt(512)
    assert np.abs(kept.mean(axis=1)).max() < 6 * 0.5 / np.sqrt(512)


def test_the_same_key_drops_the_same_places_and_others_other_ones(device: str) -> None:
    x, keys = mx.ones((64, 64)), RandomKeys(1, 2)
    first, second = dropped(0.5, x, keys), dropped(0.5, x, keys)
    keys.seed(1, 2)
    assert (dropped(0.5, x, keys) == first).all()
    assert (dropped(0.5, x, keys) == second).all()
    # Half of the places agree by chance: 2,048, give or take 32.
    for other in (second, *(dropped(0.5, x, RandomKeys(*seed)) for seed in ((1, 3), (2, 1), (1,), (1, 2, 1)))):
        assert abs((other == first).sum() - 2048) < 6 * 32


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 999), st.integers(0, 9)), unique=True, max_size=6))
@settings(max_examples=20, deadline=None)
def test_no_two_keys_of_a_training_are_alike(seeds: list[tuple[int, int, int]]) -> None:
    found = []
    for seed in seeds:
        keys = RandomKeys(*seed)
        found += [dropped(0.5, mx.ones((128,)), keys).tobytes() for _ in range(3)]
    assert len(set(found)) == len(found)


def test_a_key_does_not_depend_on_what_was_drawn_elsewhere() -> None:
    x = mx.ones((256,))
    mx.random.seed(0)
    np.random.seed(0)
    first = dropped(0.5, x, RandomKeys(7))
    mx.random.uniform(shape=(3,))
    np.random.random(3)
    state: Any = mx.random.state
    before = [np.array(part) for part in state]
    assert (dropped(0.5, x, RandomKeys(7)) == first).all()
    assert all((np.array(part) == own).all() for part, own in zip(state, before, strict=True))


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (3,), (5, 7), (2, 3, 5)])
def test_any_shape_is_dropped_from(shape: tuple[int, ...], device: str) -> None:
    found = dropped(0.5, mx.ones(shape), RandomKeys(0))
    assert found.shape == shape
    assert set(np.unique(found)) <= {0.0, 2.0}


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_numbers_stay_of_their_kind(dtype: mx.Dtype, device: str) -> None:
    module = nn.Dropout(0.5)
    with keyed_dropout([module], RandomKeys(0)):
        found = module(mx.ones((32,), dtype))
    assert found.dtype == dtype
    assert set(np.unique(np.array(found.astype(mx.float32)))) == {0.0, 2.0}


def test_the_gradient_is_dropped_where_the_value_is(device: str) -> None:
    module, x = nn.Dropout(0.3), mx.random.normal((400,), key=mx.random.key(0))
    with keyed_dropout([module], RandomKeys(0)):
        value, slope = mx.vjp(module, [x], [mx.ones(400)])
    np.testing.assert_allclose(np.array(value[0]), np.array(x * slope[0]), rtol=1e-6)
    assert set(np.unique(np.array(slope[0]))) == {np.float32(0), np.float32(1 / 0.7)}


@pytest.mark.parametrize("training", [True, False])
def test_without_dropout_or_training_nothing_is_drawn(training: bool, device: str) -> None:
    module, keys = nn.Dropout(0.0 if training else 0.5), RandomKeys(3)
    module.train(training)
    before, x = keys.state, mx.random.normal((9,), key=mx.random.key(0))
    with keyed_dropout([module], keys):
        assert module(x) is x
    assert keys.state == before


def test_only_these_blocks_draw_and_only_inside(device: str) -> None:
    mine, other, keys = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)), nn.Dropout(0.5), RandomKeys(3)
    before = keys.state
    with pytest.raises(ZeroDivisionError), keyed_dropout([mine, mine], keys):
        other(mx.ones(9))
        assert keys.state == before
        mine(mx.ones((9, 2)))
        assert keys.state != before
        raise ZeroDivisionError
    drawn = keys.state
    mine(mx.ones((9, 2)))
    assert keys.state == drawn
    assert type(mine.layers[0]) is nn.Dropout


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_checkpointed_block_drops_the_same_in_both_passes(share: float, device: str) -> None:
    """Three blocks in a row that are linear in x: value and slope are the same product, if the places are."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.first, self.second = mx.ones(500), nn.Dropout(share), nn.Dropout(share)

        def __call__(self, x: mx.array) -> mx.array:
            return self.second(self.first(x * self.scale))

    blocks, keys = [Block() for _ in range(3)], RandomKeys(5, 6)
    states = []

    def forward(x: mx.array) -> mx.array:
        found: mx.array = blocks[2](blocks[1](blocks[0](x)))
        states.append(keys.state)
        return found

    with keyed_dropout(blocks, keys), gradient_checkpointing(blocks, keys):
        value, slope = mx.vjp(forward, [mx.ones(500)], [mx.ones(500)])
        mx.eval(value, slope)
        np.testing.assert_array_equal(np.array(value[0]), np.array(slope[0]))
        assert states == [keys.state]  # the second pass sets nothing back
        # All six masks were different ones.
        assert abs(float((value[0] > 0).astype(mx.float32).mean()) - (1 - share) ** 6) < 0.1
        keys.seed(5, 6)
        again = blocks[2](blocks[1](blocks[0](mx.ones(500))))
        np.testing.assert_array_equal(np.array(again), np.array(value[0]))
