"""Frozen layers are computed once for each sample, and their weights are released until the training ends."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama

from mlx_personal import LanguageModel, UserError, load_language_model
from mlx_personal.finetune import LoRAConfig, TrainingData, TrainingStep, plan_training, train
from mlx_personal.finetune.data.batching import collate
from mlx_personal.finetune.forward import activation_cache
from mlx_personal.finetune.forward.activation_cache import ActivationCache
from mlx_personal.finetune.forward.gradients import GradientComputer
from mlx_personal.finetune.forward.split_model import SplitModel
from mlx_personal.finetune.planning.memory import MemoryPlan
from mlx_personal.progress import ProgressEvent
from tests.support import random_models
from tests.support.cases import slow_cases
from tests.support.training_steps import for_each_step

SAMPLES = random_models.prefix_sharing_samples()
CONFIG = LoRAConfig(epochs=2, batch_size=4, num_layers=1, dropout=0.1, learning_rate=1e-2)


def make_cache(lm: LanguageModel, packed: bool, limit: int) -> ActivationCache:
    network = SplitModel(lm)
    with network.patched():
        return ActivationCache(network, SAMPLES, 2048 if packed else 1, limit)


def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 0})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)


# The cache


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("limit", "location"), [(10**9, "memory"), (0, "file")])
def test_cached_activations_equal_those_of_each_sample_alone(
    kind: str, packed: bool, limit: int, location: str
) -> None:
    lm = random_models.random_model("llama", kind)
    random_models.with_adapter(lm, num_layers=1)
    cache = make_cache(lm, packed, limit)
    assert cache.location == location
    assert cache.bytes == sum(map(len, SAMPLES)) * 64 * (4 if kind == "float32" else 2)
    for index, sample in enumerate(SAMPLES):
        x = lm.backbone.embed_tokens(mx.array(sample.inputs[None]))
        for layer in lm.model.layers[:2]:
            x = layer(x, "causal", None)
        result = cache.get(collate(SAMPLES, [index], "padded"))
        assert result.dtype == x.dtype
        assert random_models.distance(result, x) < (1e-5 if kind == "float32" else 2e-2)


def test_activations_are_arranged_like_the_inputs_of_a_batch() -> None:
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm, num_layers=1)
    cache = make_cache(lm, True, 10**9)
    alone = [np.array(cache.get(collate(SAMPLES, [i], "padded")))[0] for i in range(len(SAMPLES))]
    padded = collate(SAMPLES, [3, 0, 5], "padded")
    result = np.array(cache.get(padded))
    for row, index in enumerate((3, 0, 5)):
        assert (result[row, : len(SAMPLES[index])] == alone[index]).all()
        assert (result[row, len(SAMPLES[index]) :] == 0).all()
    for share in (True, False):
        indices = [7, 2, 4, 9, 1]
        batch = collate(SAMPLES, indices, "packed", share)
        assert batch.segments is not None
        result, at = np.array(cache.get(batch))[0], 0
        for segment in batch.segments:
            expected = alone[indices[segment.sample]][segment.start : segment.stop]
            assert np.allclose(result[at : at + len(segment)], expected, atol=1e-5)
            at += len(segment)


def test_progress_is_reported_for_each_sample() -> None:
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm, num_layers=1)
    network = SplitModel(lm)
    events: list[ProgressEvent] = []
    with network.patched():
        ActivationCache(network, SAMPLES, 1, 10**9, on_progress=events.append)
    count = len(SAMPLES)
    assert events == [ProgressEvent("caching activations", i + 1, count) for i in range(count)]


def test_the_file_has_no_name_and_takes_half_of_the_free_space_at_most(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm, num_layers=1)
    cache = make_cache(lm, True, 0)
    assert cache.location == "file"
    assert list(tmp_path.iterdir()) == []
    for ratio, location in ((2.1, "file"), (1.9, "nowhere")):
        usage = type("usage", (), {"free": ratio * cache.bytes})
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, usage=usage: usage)
        assert make_cache(lm, True, cache.bytes - 1).location == location
        assert make_cache(lm, True, cache.bytes).location == "memory"


def test_a_full_disk_disables_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Space is reserved before a page of the map is written to, which would kill the process on a full disk."""
    reserved: list[int] = []

    def reserve(descriptor: int, offset: int, size: int) -> None:
        reserved.append(size)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", reserve, raising=False)
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm, num_layers=1)
    cache = make_cache(lm, True, 0)
    assert (cache.location, reserved) == ("nowhere", [cache.bytes])


def test_space_is_reserved_without_a_system_call_for_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm, num_layers=1)
    assert make_cache(lm, True, 0).location == "file"
    file = activation_cache._create_file((3, 2**20 + 5))
    assert file is not None and file.shape == (3, 2**20 + 5) and not file.any()


# Training


def train_with_cache(lm: LanguageModel, mode: str, limit: int) -> tuple[tuple[float, ...], str, dict[str, bytes]]:
    report = train(lm, plan_training(TrainingData(SAMPLES), CONFIG, memory=MemoryPlan(cache_bytes=limit), order=order))
    assert report.forward_mode == mode
    trained = random_models.bits(lm.model.trainable_parameters())
    lm.detach_adapter()
    return report.losses, report.activation_cache, trained


def order(epoch: int) -> list[range]:
    return [range(epoch, 5), range(5, 6), range(6, len(SAMPLES))]


@pytest.mark.parametrize(("family", "mode"), [("llama", "packed"), *slow_cases(("gemma2", "padded"))])
def test_the_location_of_the_cache_changes_no_loss(family: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_models.random_model(family)
    in_memory = train_with_cache(lm, mode, 10**9)
    in_file = train_with_cache(lm, mode, 0)
    no_disk(monkeypatch)
    nowhere = train_with_cache(lm, mode, 0)
    assert [kind for _, kind, _ in (in_memory, in_file, nowhere)] == ["memory", "file", "nowhere"]
    assert in_file[0] == in_memory[0]
    assert in_file[2] == in_memory[2]  # bit for bit
    assert nowhere[0] == pytest.approx(in_memory[0], rel=1e-5)


# Released weights

MEGABYTES = 10**6


@pytest.fixture(scope="module")
def large_folder(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight layers of 4 MB each, beside the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("large") / "model"
    shutil.copytree(tiny_model_folder, folder)
    sizes = {"hidden_size": 256, "head_dim": 64, "intermediate_size": 1024, "num_hidden_layers": 8}
    config = json.loads((folder / "config.json").read_text()) | sizes
    (folder / "config.json").write_text(json.dumps(config))
    mx.random.seed(0)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
    return folder


def total_bytes(tree: Any) -> int:
    return sum(array.nbytes for _, array in tree_flatten(tree))


def active_memory_bytes() -> int:
    mx.synchronize()  # what still runs holds arrays
    gc.collect()
    mx.clear_cache()
    return mx.get_active_memory()


@pytest.mark.slow
def test_frozen_layers_are_released_during_training_and_restored_afterwards(large_folder: Path) -> None:
    lm = load_language_model(large_folder)
    before, base = random_models.bits(lm.model.parameters()), active_memory_bytes()
    layer_bytes = total_bytes(lm.model.layers[0].parameters())
    memory_bytes: list[int] = []
    train(
        lm,
        plan_training(TrainingData(SAMPLES), CONFIG),
        on_progress=for_each_step(lambda step: memory_bytes.append(step.memory_bytes)),
    )
    lm.detach_adapter()
    assert layer_bytes > 3.9 * MEGABYTES
    # Seven of eight layers are released, and the optimizer and adapter are added.
    assert max(memory_bytes) < base - 6 * layer_bytes
    assert random_models.bits(lm.model.parameters()) == before
    assert active_memory_bytes() == pytest.approx(base, abs=0.5 * MEGABYTES)


def test_a_model_without_a_folder_trains_equally_and_keeps_its_weights(tiny_model_folder: Path) -> None:
    lm = load_language_model(tiny_model_folder)
    expected = train(lm, plan_training(TrainingData(SAMPLES), CONFIG)).losses
    lm.detach_adapter()
    in_memory_model = LanguageModel(lm.model, lm.tokenizer)
    before = random_models.bits(in_memory_model.model.parameters())
    assert train(in_memory_model, plan_training(TrainingData(SAMPLES), CONFIG)).losses == expected
    in_memory_model.detach_adapter()
    assert random_models.bits(in_memory_model.model.parameters()) == before


@pytest.mark.slow
def test_layers_are_not_released_if_their_outputs_are_not_cached(
    large_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_disk(monkeypatch)
    lm = load_language_model(large_folder)
    monkeypatch.setattr(lm, "release_weights", lambda keep: pytest.fail("released"))
    report = train(lm, plan_training(TrainingData(SAMPLES), CONFIG, memory=MemoryPlan(cache_bytes=0)))
    assert report.activation_cache == "nowhere"
    lm.detach_adapter()


def test_a_model_is_restored_after_an_error(tiny_model_folder: Path) -> None:
    lm = load_language_model(tiny_model_folder)
    before = random_models.bits(lm.model.parameters())

    def fail(step: TrainingStep) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(lm, plan_training(TrainingData(SAMPLES), CONFIG), on_progress=for_each_step(fail))
    assert random_models.bits(lm.model.parameters()) == before


def test_a_folder_that_cannot_be_read_again_is_reported_in_one_line(large_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(large_folder, folder)
    lm = load_language_model(folder)
    random_models.with_adapter(lm, num_layers=1)
    computer = GradientComputer(lm, SAMPLES, "packed", MemoryPlan(), share_prefixes=True)
    message = "the base model can no longer be read; restore its folder"
    with pytest.raises(UserError, match=message) as raised, computer.prepared():
        for file in folder.glob("*.safetensors"):
            file.write_bytes(b"")
    assert "\n" not in raised.value.line()
