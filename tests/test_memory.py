"""What the memory estimate and the plans promise: the measured peak, and a plan that fits or a clear refusal."""

from __future__ import annotations

import dataclasses
import gc
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_personal import LanguageModel, load_language_model
from mlx_personal.backend.memory import usable_memory
from mlx_personal.errors import UserError
from mlx_personal.finetune.anatomy import of_folder, of_model
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.memory import Plan, estimate, fastest, plan_for
from mlx_personal.finetune.rows import Row, TrainingData
from mlx_personal.finetune.training import train

LENGTHS = [35, 70, 154, 119, 66, 43, 227, 91]
TARGETS = [round(0.6 * length) for length in LENGTHS]


def rows(lengths: Sequence[int], vocabulary: int) -> list[Row]:
    """Random tokens, of which the last six tenths are learnt."""
    rng = np.random.default_rng(0)
    made = []
    for length in lengths:
        tokens = rng.integers(0, vocabulary, length + 1, dtype=np.int32)
        made.append(Row(tokens[:-1], tokens[1:], np.arange(length) >= length - round(0.6 * length)))
    return made


def settings_of(**changes: Any) -> LoRAConfig:
    return LoRAConfig(**{"dropout": 0.0, "epochs": 1, "batch_size": 4, **changes})


@pytest.mark.parametrize(
    ("changes", "plan"),
    [
        ({}, Plan()),
        ({"num_layers": 2}, Plan()),
        ({"num_layers": 2, "dora": True}, Plan()),
        ({"num_layers": 4, "dropout": 0.1}, Plan()),
        ({"rank": 128, "epochs": 3}, Plan()),
        ({"batch_size": 8}, Plan(batch_tokens=256)),
        ({}, Plan(checkpoint=True)),
        ({"num_layers": 3, "batch_size": 8}, Plan(checkpoint=True, cache_bytes=0)),
    ],
)
def test_the_estimate_is_within_20_percent_of_the_measured_peak(changes: dict[str, Any], plan: Plan) -> None:
    lm = load_language_model("demo")
    assert lm.path is not None
    config = settings_of(**changes)
    gc.collect()  # arrays of other tests
    before = mx.get_active_memory() - sum(weight.nbytes for _, weight in tree_flatten(lm.model.parameters()))
    mx.clear_cache()
    report = train(lm, TrainingData(rows(LENGTHS, 2048)), config, plan=plan)
    found = estimate(lm.path, LENGTHS, TARGETS, config, plan.batch_tokens, plan.checkpoint, plan.cache_bytes)
    assert found.peak == pytest.approx(report.peak_memory_bytes - before, rel=0.2)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_the_weights_are_counted_as_they_will_lie_in_memory(
    dtype: mx.Dtype, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """float32 on a CPU, whatever the file holds."""
    weights: Any = mx.load(str(tiny_model_folder / "model.safetensors"))
    stored = {name: weight.astype(dtype) for name, weight in weights.items()}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), stored)
    (tmp_path / "config.json").write_text((tiny_model_folder / "config.json").read_text())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((tiny_model_folder / name).read_text())
    loaded = load_language_model(tmp_path)
    held = sum(weight.nbytes for _, weight in tree_flatten(loaded.model.parameters()))
    assert of_folder(tmp_path).bytes == held


def test_a_quantized_model_is_told_as_it_is_computed(tiny_model_folder: Path, tmp_path: Path) -> None:
    """On a CPU that is unquantized: the same as the model it was made from."""
    weights: Any = mx.load(str(tiny_model_folder / "model.safetensors"))
    stored: dict[str, mx.array] = {}
    for name, weight in weights.items():
        if weight.ndim == 2:
            layer = name.removesuffix(".weight")
            stored[name], stored[f"{layer}.scales"], stored[f"{layer}.biases"] = mx.quantize(weight, 32, 4)
        else:
            stored[name] = weight
    mx.save_safetensors(str(tmp_path / "model.safetensors"), stored)
    config = json.loads((tiny_model_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization": {"group_size": 32, "bits": 4}}))
    assert of_folder(tmp_path) == of_folder(tiny_model_folder)


def test_a_folder_and_its_loaded_model_have_one_anatomy(demo_model: LanguageModel) -> None:
    assert demo_model.path is not None
    assert of_model(demo_model) == of_folder(demo_model.path)


def test_a_block_is_told_by_its_weights(demo_model: LanguageModel) -> None:
    anatomy = of_model(demo_model)
    block = anatomy.blocks[0]
    assert (anatomy.width, anatomy.vocabulary, anatomy.heads, len(anatomy.blocks)) == (192, 2048, 4, 5)
    assert (block.queries, block.keys, block.hidden, block.gated, block.norms) == (192, 96, 448, True, 2)
    assert sorted(block.linear) == sorted(
        [(192, 192, 1), (192, 96, 1), (192, 96, 1), (192, 192, 1), (192, 448, 1), (192, 448, 1), (448, 192, 1)]
    )


def test_an_unknown_family_is_counted_from_its_shapes(tmp_path: Path) -> None:
    names = {"embed.weight": (64, 8), "norm.weight": (8,)}
    for i in range(3):
        names |= {
            f"backbone.layers.{i}.mixer.mix_in.weight": (32, 8),
            f"backbone.layers.{i}.mixer.mix_out.weight": (8, 16),
        }
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {name: mx.zeros(shape) for name, shape in names.items()})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "never heard of"}))
    found = estimate(tmp_path, [10, 20], [5, 5], settings_of())
    assert found.training > found.loading == 4 * (64 * 8 + 8 + 3 * (32 * 8 + 8 * 16))


@pytest.mark.parametrize(
    "damage",
    [b"", struct.pack("<Q", 10**12) + b"{}", struct.pack("<Q", 4) + b"not json", struct.pack("<Q", 2) + b"[]"],
)
def test_a_damaged_weights_file_is_one_clear_line(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(damage)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError):
        estimate(tmp_path, [10], [5], settings_of())


def test_a_folder_without_a_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        estimate(tmp_path, [10], [5], settings_of())


# Plans


@pytest.fixture(scope="module")
def plans(demo_model: LanguageModel) -> Any:
    anatomy = of_model(demo_model)

    def plan(limit: int | None, **changes: Any) -> Plan:
        return fastest(anatomy, LENGTHS, TARGETS, settings_of(batch_size=8, **changes), limit)

    return plan


def test_with_enough_memory_a_whole_step_is_computed_at_once_and_nothing_twice(plans: Any) -> None:
    plan = plans(None, num_layers=2)
    assert plan.batch_tokens >= sum(LENGTHS)
    assert not plan.checkpoint
    assert plan.cache_bytes == sum(LENGTHS) * 192 * 4


def test_with_less_memory_parts_become_smaller_before_blocks_are_computed_twice(plans: Any) -> None:
    whole = plans(None).estimate
    found = [plans(int(whole * share)) for share in (0.95, 0.75, 0.6, 0.4)]
    assert [plan.checkpoint for plan in found] == sorted(plan.checkpoint for plan in found)
    assert found[0].batch_tokens < sum(LENGTHS)
    assert not found[0].checkpoint
    assert found[-1].checkpoint


def test_where_nothing_fits_the_error_says_what_is_needed_and_what_to_do(plans: Any) -> None:
    with pytest.raises(UserError) as caught:
        plans(1_000_000)
    line = caught.value.line()
    assert "needs at least" in line
    assert "num_layers" in line
    assert "\n" not in line


def test_the_chosen_batch_tokens_are_kept(plans: Any) -> None:
    assert plans(None, batch_tokens=333).batch_tokens == 333


@settings(max_examples=40, deadline=None)
@given(st.integers(20_000_000, 400_000_000), st.sampled_from([1, 3, -1]))
def test_no_plan_is_expected_to_take_more_than_there_is(plans: Any, limit: int, layers: int) -> None:
    try:
        plan = plans(limit, num_layers=layers)
    except UserError:
        return
    assert plan.estimate <= limit


def test_a_plan_is_made_for_a_loaded_model_with_or_without_a_folder(demo_model: LanguageModel) -> None:
    data = TrainingData(rows(LENGTHS, 2048))
    plan = plan_for(demo_model, data, settings_of())
    assert plan == plan_for(LanguageModel(demo_model.model, demo_model.tokenizer), data, settings_of())
    assert plan.estimate
    json.dumps(dataclasses.asdict(plan))


def test_the_available_memory_is_what_the_system_says_less_a_margin(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 2000 kB\nMemAvailable: 1000 kB\n")
    assert usable_memory(meminfo) == pytest.approx(mx.get_active_memory() + 0.9 * 1000 * 1024, abs=1)


def test_without_a_system_that_says_it_half_of_the_machine_counts(tmp_path: Path) -> None:
    assert (usable_memory(tmp_path / "none") or 0) > mx.get_active_memory()
