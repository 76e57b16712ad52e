"""Adapters of many users on one loaded base model do not affect each other."""

from __future__ import annotations

import dataclasses
import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_personal import Dialogue, LanguageModel, UserError, load_language_model
from mlx_personal.finetune import Example, LoRAConfig, TrainingData, TrainingStep, finetune, plan_training, train
from mlx_personal.finetune.data.samples import Sample
from mlx_personal.finetune.forward import equivalence
from mlx_personal.finetune.forward.equivalence import EquivalenceCheck, ModeSelection, select_mode
from tests.support import random_models
from tests.support.cases import slow_cases
from tests.support.paths import ROOT
from tests.support.training_steps import for_each_step

CONFIG = LoRAConfig(epochs=2, batch_size=4, learning_rate=1e-2)
USERS = [
    [Example(Dialogue.of(f"What does user {u} cook on day {d}?", f"Soup {u * d}.")) for d in range(6)] for u in range(8)
]


@pytest.fixture
def check_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the number of samples of each equivalence check."""
    sizes: list[int] = []

    def counted(lm: LanguageModel, samples: Sequence[Sample], probe: Sequence[int]) -> Any:
        sizes.append(len(samples))
        return select_mode(lm, samples, probe)

    monkeypatch.setattr(equivalence, "select_mode", counted)
    return sizes


def interrupt(step: TrainingStep) -> None:
    raise RuntimeError(f"after step {step.number}")


def adapter(lm: LanguageModel, user: int, folder: Path, config: LoRAConfig = CONFIG) -> bytes:
    finetune(lm, USERS[user], config, folder)
    return (folder / "adapters.safetensors").read_bytes()


@pytest.mark.parametrize(("dropout", "layers"), [(0.3, 1), *slow_cases((0.0, -1))])
def test_the_seventh_adapter_equals_one_trained_alone(
    dropout: float, layers: int, tiny_model_folder: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, dropout=dropout, num_layers=layers)
    lm = load_language_model(tiny_model_folder)
    adapters = [adapter(lm, user, tmp_path / f"{user}", config) for user in range(8)]
    assert adapter(load_language_model(tiny_model_folder), 6, tmp_path / "alone", config) == adapters[6]
    assert len(set(adapters)) == 8


def test_other_users_data_has_no_effect(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Neither earlier trainings nor failed ones have an effect."""
    lm = load_language_model(tiny_model_folder)
    expected = adapter(lm, 3, tmp_path / "first")
    adapter(lm, 5, tmp_path / "another")
    with pytest.raises(UserError):
        finetune(lm, [Example(Dialogue.of("a", "<think>only</think>"))], CONFIG, tmp_path / "none")
    with pytest.raises(RuntimeError, match="after step 1"):
        finetune(lm, USERS[1], CONFIG, tmp_path / "broken", on_progress=for_each_step(interrupt))
    assert adapter(lm, 3, tmp_path / "again") == expected


def test_the_base_is_unchanged_after_many_adapters(tiny_model_folder: Path, tmp_path: Path) -> None:
    lm = load_language_model(tiny_model_folder)
    before = random_models.bits(lm.model.parameters())
    for user in range(3):
        adapter(lm, user, tmp_path / f"{user}")
    assert random_models.bits(lm.model.parameters()) == before


@pytest.mark.slow
def test_a_base_is_checked_once_for_all_users(check_sizes: list[int], tmp_path: Path) -> None:
    lm = load_language_model("demo")
    for user in range(2, 6):
        adapter(lm, user, tmp_path / f"{user}")
    assert check_sizes == [6]
    adapter(load_language_model("demo"), 0, tmp_path / "loaded again")
    assert check_sizes == [6, 6]


@pytest.mark.parametrize(
    ("difference", "times"), [(0.9e-5, 1), (1.1e-5, 2), (0.9e-4, 2), (1.1e-4, 2), (0.9e-3, 2), (1.1e-3, 1)]
)
def test_a_difference_near_the_tolerance_is_checked_for_each_user(
    difference: float, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, calls = random_models.random_model("llama"), []

    def choose(lm: LanguageModel, samples: list[Sample], probe: Sequence[int]) -> ModeSelection:
        calls.append(samples)
        return ModeSelection("packed", (EquivalenceCheck("packed", mx.float32, 0.0, difference),))

    monkeypatch.setattr("mlx_personal.finetune.forward.equivalence.select_mode", choose)
    for _ in range(2):
        equivalence.select_mode_cached(lm, CONFIG, UNRELATED)
    assert len(calls) == times


SAMPLES = random_models.prefix_sharing_samples()
UNRELATED = [sample for sample in SAMPLES if len(sample) in (5, 37, 1)]
EQUAL_LENGTH = [
    dataclasses.replace(UNRELATED[0]),
    dataclasses.replace(UNRELATED[0], targets=UNRELATED[0].targets[::-1].copy()),
]


@pytest.mark.parametrize(
    ("changes", "samples"),
    [
        ({}, SAMPLES),  # shared prefixes
        ({}, EQUAL_LENGTH),  # equal lengths
        ({}, UNRELATED[:1]),
        ({}, [dataclasses.replace(UNRELATED[0], weight=0.5), *UNRELATED[1:]]),
        ({"num_layers": 1}, UNRELATED),
        *slow_cases(({"use_dora": True}, UNRELATED), ({"rank": 4}, UNRELATED), ({"alpha": 4.0}, UNRELATED)),
    ],
)
def test_other_samples_or_adapters_are_checked_again(
    changes: dict[str, Any], samples: list[Sample], check_sizes: list[int]
) -> None:
    lm = random_models.random_model("llama")
    config = LoRAConfig(epochs=1, dropout=0.0, num_layers=2)
    for _ in range(2):
        train(lm, plan_training(TrainingData(UNRELATED), config))
    assert check_sizes == [len(UNRELATED)]
    for _ in range(2):
        train(lm, plan_training(TrainingData(samples), dataclasses.replace(config, **changes)))
    assert check_sizes == [len(UNRELATED), len(samples)]
    lm.detach_adapter()


def test_settings_without_effect_on_the_forward_pass_are_not_checked_again(check_sizes: list[int]) -> None:
    lm = random_models.random_model("llama")
    for changes in ({}, {"epochs": 2}, {"seed": 1}, {"learning_rate": 1e-3}, {"batch_size": 2}):
        train(lm, plan_training(TrainingData(UNRELATED), LoRAConfig(**{"epochs": 1, "dropout": 0.0} | changes)))
    lm.detach_adapter()
    assert len(check_sizes) == 1


def test_a_slower_mode_is_cached_with_its_reason(check_sizes: list[int]) -> None:
    lm = random_models.random_model("gpt2")
    reports = [train(lm, plan_training(TrainingData(SAMPLES), LoRAConfig(epochs=1))) for _ in range(2)]
    lm.detach_adapter()
    assert len(check_sizes) == 1
    assert reports[0].forward_mode == reports[1].forward_mode != "packed"
    assert reports[0].notes == reports[1].notes != ()


def test_a_failed_check_is_repeated(check_sizes: list[int]) -> None:
    lm = random_models.random_model("llama", num_hidden_layers=2)
    lm.attach_new_adapter(-1, CONFIG.lora_parameters, 0)
    sound = lm.model.model.norm.weight
    lm.model.model.norm.weight = mx.full(sound.shape, mx.nan)
    for _ in range(2):
        with pytest.raises(UserError, match="not a number"):
            equivalence.select_mode_cached(lm, CONFIG, UNRELATED)
    lm.model.model.norm.weight = sound
    assert equivalence.select_mode_cached(lm, CONFIG, UNRELATED).mode == "packed"
    assert len(check_sizes) == 3
    lm.detach_adapter()


def test_an_unreferenced_base_leaves_the_cache() -> None:
    mx.synchronize()  # what still runs holds arrays
    gc.collect()
    before = len(equivalence._SELECTIONS)
    lm = random_models.random_model("llama")
    train(lm, plan_training(TrainingData(UNRELATED), LoRAConfig(epochs=1)))
    assert len(equivalence._SELECTIONS) == before + 1
    del lm
    mx.synchronize()  # what still runs holds arrays
    gc.collect()
    assert len(equivalence._SELECTIONS) == before


@pytest.mark.slow
def test_the_benchmark_reports_both_sides(tmp_path: Path) -> None:
    arguments = ["--quick", "--records", "4", "--as-stored", "1", "--json", "--out", str(tmp_path / "many.md")]
    command = [sys.executable, "-m", "benchmarks.many_users", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert json.loads((tmp_path / "many.json").read_text()) == figures
    ours, theirs = (figures["users"][side] for side in ("ours", "mlx-lm, float32"))
    assert [user["rows"] for user in ours] == [user["rows"] for user in theirs] == [4, 4]
    assert [user["steps"] for user in ours] == [user["steps"] for user in theirs] == [1, 1]
    # With one step of the whole data set, the loss is that of the base model on both sides.
    assert [user["loss"] for user in ours] == pytest.approx([user["loss"] for user in theirs], rel=1e-3)
    seconds = [sum(user["seconds"] for user in side) for side in (ours, theirs)]
    assert figures["speedup"] == pytest.approx(seconds[1] / (figures["load_seconds"] + seconds[0]))
    assert len(figures["users"]["mlx-lm, as stored"]) == 1
    assert "| mlx-lm, float32 | 2 |" in (tmp_path / "many.md").read_text()
