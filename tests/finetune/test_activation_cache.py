"""Frozen blocks are computed once a row, wherever that is kept, and give up their memory until the training ends."""

from __future__ import annotations

import errno
import gc
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama

from mlx_personal import LanguageModel, UserError, load_language_model
from mlx_personal.finetune import LoRAConfig, TrainingData, TrainingStep, train
from mlx_personal.finetune.data.batching import collate
from mlx_personal.finetune.forward import activation_cache
from mlx_personal.finetune.forward.activation_cache import ActivationCache
from mlx_personal.finetune.forward.gradients import GradientComputer
from mlx_personal.finetune.forward.split_model import SplitModel
from mlx_personal.finetune.planning.memory import MemoryPlan
from tests.support import random_models

ROWS = random_models.a_family_of_rows()
CONFIG = LoRAConfig(epochs=2, batch_size=4, num_layers=1, dropout=0.1, learning_rate=1e-2)


def kept(lm: LanguageModel, packed: bool, budget: int) -> ActivationCache:
    network = SplitModel(lm)
    with network.opened():
        return ActivationCache(network, ROWS, 2048 if packed else 1, budget)


def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 0})
    monkeypatch.setattr(activation_cache.shutil, "disk_usage", lambda folder: usage)


# What is kept


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("budget", "where"), [(10**9, "memory"), (0, "file")])
def test_the_states_are_those_of_each_row_alone(kind: str, packed: bool, budget: int, where: str) -> None:
    lm = random_models.random_model("llama", kind)
    random_models.with_adapter(lm, num_layers=1)
    states = kept(lm, packed, budget)
    assert states.where == where
    assert states.bytes == sum(map(len, ROWS)) * 64 * (4 if kind == "float32" else 2)
    for number, row in enumerate(ROWS):
        x = lm.backbone.embed_tokens(mx.array(row.inputs[None]))
        for block in lm.model.layers[:2]:
            x = block(x, "causal", None)
        found = states.of(collate(ROWS, [number], "padded"))
        assert found.dtype == x.dtype
        assert random_models.distance(found, x) < (1e-5 if kind == "float32" else 2e-2)


def test_a_batch_finds_its_states_where_its_tokens_lie() -> None:
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm, num_layers=1)
    states = kept(lm, True, 10**9)
    alone = [np.array(states.of(collate(ROWS, [i], "padded")))[0] for i in range(len(ROWS))]
    padded = collate(ROWS, [3, 0, 5], "padded")
    found = np.array(states.of(padded))
    for lane, number in enumerate((3, 0, 5)):
        assert (found[lane, : len(ROWS[number])] == alone[number]).all()
        assert (found[lane, len(ROWS[number]) :] == 0).all()
    for share in (True, False):
        chosen = [7, 2, 4, 9, 1]
        batch = collate(ROWS, chosen, "packed", share)
        assert batch.segments is not None
        found, at = np.array(states.of(batch))[0], 0
        for segment in batch.segments:
            wanted = alone[chosen[segment.sample]][segment.start : segment.stop]
            assert np.allclose(found[at : at + len(segment)], wanted, atol=1e-5)
            at += len(segment)


def test_each_row_is_told_when_it_is_done() -> None:
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm, num_layers=1)
    network, told = SplitModel(lm), []
    with network.opened():
        ActivationCache(network, ROWS, 1, 10**9, on_progress=lambda *done: told.append(done))
    assert told == [(i + 1, len(ROWS)) for i in range(len(ROWS))]


def test_the_file_has_no_name_and_is_a_disk_s_half_at_most(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(activation_cache.tempfile, "tempdir", str(tmp_path))
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm, num_layers=1)
    states = kept(lm, True, 0)
    assert states.where == "file"
    assert list(tmp_path.iterdir()) == []
    for share, where in ((2.1, "file"), (1.9, "nowhere")):
        usage = type("usage", (), {"free": share * states.bytes})
        monkeypatch.setattr(activation_cache.shutil, "disk_usage", lambda folder, usage=usage: usage)
        assert kept(lm, True, states.bytes - 1).where == where
        assert kept(lm, True, states.bytes).where == "memory"


def test_a_disk_that_is_full_sooner_than_it_said_costs_no_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Room is taken before a page of the map is written to, which would be the end on a full disk."""
    taken: list[int] = []

    def take(descriptor: int, offset: int, size: int) -> None:
        taken.append(size)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(activation_cache.os, "posix_fallocate", take, raising=False)
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm, num_layers=1)
    states = kept(lm, True, 0)
    assert (states.where, taken) == ("nowhere", [states.bytes])


def test_where_the_system_has_no_call_for_it_room_is_taken_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(activation_cache.os, "posix_fallocate", raising=False)
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm, num_layers=1)
    assert kept(lm, True, 0).where == "file"
    file = activation_cache._file_of((3, 2**20 + 5))
    assert file is not None and file.shape == (3, 2**20 + 5) and not file.any()


# Training from them


def losses(lm: LanguageModel, way: str, budget: int) -> tuple[tuple[float, ...], str, dict[str, bytes]]:
    report = train(lm, TrainingData(ROWS), CONFIG, plan=MemoryPlan(cache_bytes=budget), order=ORDER)
    assert report.way == way
    trained = random_models.bits(lm.model.trainable_parameters())
    lm.detach_adapter()
    return report.losses, report.kept_states, trained


def ORDER(epoch: int) -> list[range]:  # noqa: N802 - a constant in all but kind
    return [range(epoch, 5), range(5, 6), range(6, len(ROWS))]


@pytest.mark.parametrize(("family", "way"), [("llama", "packed"), ("gemma2", "padded")])
def test_where_they_are_kept_changes_no_loss(family: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_models.random_model(family)
    in_memory = losses(lm, way, 10**9)
    in_file = losses(lm, way, 0)
    no_disk(monkeypatch)
    nowhere = losses(lm, way, 0)
    assert [kind for _, kind, _ in (in_memory, in_file, nowhere)] == ["memory", "file", "nowhere"]
    assert in_file[0] == in_memory[0]
    assert in_file[2] == in_memory[2]  # to the last bit
    assert nowhere[0] == pytest.approx(in_memory[0], rel=1e-5)


# Freed weights

MEGABYTES = 10**6


@pytest.fixture(scope="module")
def large_folder(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight blocks of 4 MB each, beside the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("large") / "model"
    shutil.copytree(tiny_model_folder, folder)
    sizes = {"hidden_size": 256, "head_dim": 64, "intermediate_size": 1024, "num_hidden_layers": 8}
    config = json.loads((folder / "config.json").read_text()) | sizes
    (folder / "config.json").write_text(json.dumps(config))
    mx.random.seed(0)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
    return folder


def size_of(tree: Any) -> int:
    return sum(array.nbytes for _, array in tree_flatten(tree))


def active() -> int:
    gc.collect()
    mx.clear_cache()
    return mx.get_active_memory()


def test_frozen_blocks_of_a_folder_are_freed_while_it_trains_and_whole_afterwards(large_folder: Path) -> None:
    lm = load_language_model(large_folder)
    before, base = random_models.bits(lm.model.parameters()), active()
    block = size_of(lm.model.layers[0].parameters())
    held: list[int] = []
    train(lm, TrainingData(ROWS), CONFIG, on_step=lambda step: held.append(step.memory_bytes))
    lm.detach_adapter()
    assert block > 3.9 * MEGABYTES
    # Seven of eight blocks are gone, though there are optimizer and adapter now.
    assert max(held) < base - 6 * block
    assert random_models.bits(lm.model.parameters()) == before
    assert active() == pytest.approx(base, abs=0.5 * MEGABYTES)


def test_a_model_made_in_memory_trains_alike_and_keeps_its_weights(large_folder: Path) -> None:
    lm = load_language_model(large_folder)
    wanted = train(lm, TrainingData(ROWS), CONFIG).losses
    lm.detach_adapter()
    made = LanguageModel(lm.model, lm.tokenizer)
    before = random_models.bits(made.model.parameters())
    held: list[TrainingStep] = []
    assert train(made, TrainingData(ROWS), CONFIG, on_step=held.append).losses == wanted
    made.detach_adapter()
    assert random_models.bits(made.model.parameters()) == before


def test_blocks_are_kept_where_their_output_is_not(large_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_disk(monkeypatch)
    lm = load_language_model(large_folder)
    monkeypatch.setattr(lm, "release", lambda kept: pytest.fail("released"))
    report = train(lm, TrainingData(ROWS), CONFIG, plan=MemoryPlan(cache_bytes=0))
    assert report.kept_states == "nowhere"
    lm.detach_adapter()


def test_a_model_is_whole_again_after_an_error(large_folder: Path) -> None:
    lm = load_language_model(large_folder)
    before = random_models.bits(lm.model.parameters())

    def fail(step: TrainingStep) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(lm, TrainingData(ROWS), CONFIG, on_step=fail)
    assert random_models.bits(lm.model.parameters()) == before


def test_a_folder_that_is_gone_when_it_is_read_again_is_said_in_one_line(large_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(large_folder, folder)
    lm = load_language_model(folder)
    random_models.with_adapter(lm, num_layers=1)
    computing = GradientComputer(lm, ROWS, "packed", MemoryPlan(), share=True)
    message = "the base model cannot be read any more; put its folder back"
    with pytest.raises(UserError, match=message) as raised, computing.opened():
        for file in folder.glob("*.safetensors"):
            file.write_bytes(b"")
    assert "\n" not in raised.value.line()
