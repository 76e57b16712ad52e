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
from mlx_personal.errors import UserError
from mlx_personal.finetune import loop
from mlx_personal.finetune import plan as plan_module
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.data.samples import Sample, TrainingData
from mlx_personal.finetune.forward.equivalence import ForwardMode
from mlx_personal.finetune.forward.split_model import SplitModel
from mlx_personal.finetune.loop import train
from mlx_personal.finetune.plan import plan_for_model, plan_training
from mlx_personal.finetune.planning.memory import (
    MemoryPlan,
    SampleSizes,
    estimate_memory,
    fastest_plan,
    plan_memory,
)
from mlx_personal.finetune.planning.model_spec import spec_from_folder, spec_from_model
from mlx_personal.runtime.memory import usable_memory_bytes
from tests.support import random_models
from tests.support.cases import slow_cases

LENGTHS = [35, 70, 154, 119, 66, 43, 227, 91]
TARGETS = [round(0.6 * length) for length in LENGTHS]
SIZES = SampleSizes(LENGTHS, TARGETS)


def random_samples(lengths: Sequence[int], vocab_size: int) -> list[Sample]:
    """Return samples of random tokens, of which the last six tenths are targets."""
    rng = np.random.default_rng(0)
    samples = []
    for length in lengths:
        tokens = rng.integers(0, vocab_size, length + 1, dtype=np.int32)
        samples.append(Sample(tokens[:-1], tokens[1:], np.arange(length) >= length - round(0.6 * length)))
    return samples


def settings_of(**changes: Any) -> LoRAConfig:
    return LoRAConfig(**{"dropout": 0.0, "epochs": 1, "batch_size": 4, **changes})


def expected_and_measured(
    lm: LanguageModel,
    data: TrainingData,
    config: LoRAConfig,
    plan: MemoryPlan | None = None,
    mode: ForwardMode = "packed",
) -> tuple[int, int]:
    """Return the expected and the measured peak of a training in bytes; by default with the plan made for it."""
    # A new object, because the equivalence check is part of what is measured and made once for each model.
    lm = LanguageModel(lm.model, lm.tokenizer, lm.path)
    # Work that still runs holds arrays of earlier tests, which would be counted or freed by two threads at once.
    mx.synchronize()
    gc.collect()
    mx.synchronize()
    before = mx.get_active_memory() - sum(weight.nbytes for _, weight in tree_flatten(lm.model.parameters()))
    mx.clear_cache()
    if plan is None:
        plan = plan_memory(lm, data, config)
        expected = plan.estimated_peak_bytes
    else:
        samples = SampleSizes.from_data(data)
        expected = estimate_memory(spec_from_model(lm), samples, config, plan, plan.cache_bytes, mode).peak_bytes
    report = train(lm, plan_training(data, config, memory=plan))
    lm.detach_adapter()
    assert expected is not None
    return expected, report.peak_memory_bytes - before


@pytest.mark.parametrize(
    ("changes", "plan"),
    [
        ({"num_layers": 4, "dropout": 0.1}, MemoryPlan()),
        *slow_cases(
            ({}, MemoryPlan()),
            ({"num_layers": 3, "batch_size": 8}, MemoryPlan(gradient_checkpointing=True, cache_bytes=0)),
            ({"dropout": 0.05}, MemoryPlan()),
            ({"use_dora": True}, MemoryPlan()),
            ({"num_layers": 2}, MemoryPlan()),
            ({"num_layers": 2, "dropout": 0.05}, MemoryPlan()),
            ({"num_layers": 2, "use_dora": True}, MemoryPlan()),
            ({"num_layers": 1}, MemoryPlan(micro_batch_tokens=1)),
            ({"rank": 128, "epochs": 3}, MemoryPlan()),
            ({"batch_size": 8}, MemoryPlan(micro_batch_tokens=256)),
            ({}, MemoryPlan(gradient_checkpointing=True)),
            ({"dropout": 0.1}, MemoryPlan(gradient_checkpointing=True)),
        ),
    ],
)
def test_the_estimate_is_within_20_percent_of_the_measured_peak(changes: dict[str, Any], plan: MemoryPlan) -> None:
    lm = load_language_model("demo")
    expected, measured = expected_and_measured(
        lm, TrainingData(random_samples(LENGTHS, 2048)), settings_of(**changes), plan
    )
    assert expected == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("mode", ["padded", *slow_cases("plain")])
@pytest.mark.parametrize(
    ("changes", "plan"),
    [
        ({"num_layers": 2, "dropout": 0.05, "batch_size": 8}, MemoryPlan(micro_batch_tokens=512)),
        *slow_cases(({}, MemoryPlan()), ({"dropout": 0.1}, MemoryPlan(gradient_checkpointing=True))),
    ],
)
def test_the_slower_forward_modes_are_estimated_within_a_quarter(
    mode: ForwardMode, changes: dict[str, Any], plan: MemoryPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "select_forward_mode", lambda lm, plan, _: dataclasses.replace(plan, forward_mode=mode))
    lm, data = load_language_model("demo"), TrainingData(random_samples(LENGTHS, 2048))
    expected, measured = expected_and_measured(lm, data, settings_of(**changes), plan, mode)
    assert expected == pytest.approx(measured, rel=0.25)


def test_a_model_that_needs_the_plain_mode_is_estimated_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, config = load_language_model("demo"), settings_of(num_layers=2)
    data = TrainingData(random_samples(LENGTHS, 2048))
    plan = plan_for_model(lm, data, config)
    logits = SplitModel.logits
    monkeypatch.setattr(SplitModel, "logits", lambda self, hidden: 1.3 * logits(self, hidden))
    mx.synchronize()
    gc.collect()
    mx.clear_cache()
    others = mx.get_active_memory() - sum(weight.nbytes for _, weight in tree_flatten(lm.model.parameters()))
    report = train(lm, plan)
    measured = report.peak_memory_bytes - others
    assert report.forward_mode == "plain"
    assert report.estimated_memory_bytes == pytest.approx(measured, rel=0.2)
    assert (plan.memory.estimated_peak_bytes or 0) < 0.8 * measured


def test_a_slower_mode_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, data = load_language_model("demo"), TrainingData(random_samples(LENGTHS, 2048))
    plan = plan_for_model(lm, data, settings_of(num_layers=2))
    # As wide as the vocabulary: MLX does not check indices, and targets beyond the logits would overwrite other arrays.
    logits = SplitModel.logits
    monkeypatch.setattr(SplitModel, "logits", lambda self, hidden: 1.3 * logits(self, hidden))
    monkeypatch.setattr(plan_module, "usable_memory_bytes", lambda: 15_000_000)
    with pytest.raises(UserError, match="needs at least"):
        train(lm, plan)


@pytest.mark.parametrize(
    ("hidden_size", "mlp_width", "heads", "kv_heads", "vocab_size", "lengths"),
    [
        (64, 96, 8, 2, 128, [200, 190, 300]),  # dominated by attention
        *slow_cases((128, 256, 4, 4, 8192, [60, 90, 120])),  # by the output head
        *slow_cases((384, 1536, 4, 2, 512, [150, 160, 70])),  # by the MLP
    ],
)
def test_models_of_other_sizes_are_estimated_within_20_percent(
    hidden_size: int, mlp_width: int, heads: int, kv_heads: int, vocab_size: int, lengths: list[int]
) -> None:
    sizes: Any = {"hidden_size": hidden_size, "intermediate_size": mlp_width, "vocab_size": vocab_size}
    lm = random_models.random_model("llama", **sizes, num_attention_heads=heads, num_key_value_heads=kv_heads)
    expected, measured = expected_and_measured(
        lm, TrainingData(random_samples(lengths, vocab_size)), settings_of(), MemoryPlan()
    )
    assert expected == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("family", ["qwen3", *slow_cases("gemma3", "phi", "mixtral", "gemma2", "mamba")])
def test_other_families_are_estimated_within_a_third(family: str) -> None:
    """Without knowledge of their structure: some compute in steps that nothing in their files shows."""
    lm = random_models.random_model(
        family, hidden_size=192, intermediate_size=448, num_attention_heads=6, vocab_size=2048
    )
    expected, measured = expected_and_measured(
        lm, TrainingData(random_samples(LENGTHS, 2048)), settings_of(), MemoryPlan()
    )
    assert expected == pytest.approx(measured, rel=1 / 3)


@pytest.mark.slow
def test_replayed_and_held_out_samples_are_counted(demo_model: LanguageModel) -> None:
    short, long = random_samples([30, 40, 50, 60], 2048), random_samples([200, 220, 300], 2048)
    for data in (
        TrainingData(short, replay=long),
        TrainingData(short, validation=long),
        TrainingData(short, general=long),
    ):
        expected, measured = expected_and_measured(demo_model, data, settings_of(num_layers=2))
        assert expected == pytest.approx(measured, rel=0.2)


@pytest.mark.slow
def test_long_samples_with_a_common_prefix_are_counted_in_the_equivalence_check(demo_model: LanguageModel) -> None:
    short, long = random_samples([20, 30, 25, 40], 2048), random_samples([400, 380], 2048)
    long[1].inputs[:100] = long[0].inputs[:100]
    config = settings_of(num_layers=1, batch_size=1)
    # It takes the two with a common prefix and the shortest of all.
    expected, measured = expected_and_measured(demo_model, TrainingData([*short, *long]), config)
    assert expected == pytest.approx(measured, rel=0.2)
    lengths = [len(sample) for sample in [*short, *long]]
    targets = [round(0.6 * length) for length in lengths]
    of_two, of_three = (
        estimate_memory(
            spec_from_model(demo_model), SampleSizes(lengths, targets, probe=probe), config, MemoryPlan(), None
        ).equivalence_check_bytes
        for probe in (None, [4, 5, 0])
    )
    assert of_three > 2 * of_two


def test_weights_that_cannot_be_read_again_are_not_expected_to_be_released(demo_model: LanguageModel) -> None:
    without_folder = LanguageModel(demo_model.model, demo_model.tokenizer)
    peaks = [
        estimate_memory(spec_from_model(lm), SIZES, settings_of(num_layers=1), MemoryPlan(), None).training_bytes
        for lm in (demo_model, without_folder)
    ]
    spec = spec_from_model(demo_model)
    assert peaks[1] - peaks[0] == sum(layer.bytes for layer in spec.layers[:-1])


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_weights_are_counted_with_their_dtype_in_memory(
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
    loaded_bytes = sum(weight.nbytes for _, weight in tree_flatten(loaded.model.parameters()))
    assert spec_from_folder(tmp_path).bytes == loaded_bytes


def test_a_quantized_model_is_counted_with_its_dtype_in_memory(tiny_model_folder: Path, tmp_path: Path) -> None:
    """On a CPU that is unquantized: the same as the model it was samples from."""
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
    assert spec_from_folder(tmp_path) == spec_from_folder(tiny_model_folder)


def test_a_folder_and_its_loaded_model_have_the_same_spec(demo_model: LanguageModel) -> None:
    assert demo_model.path is not None
    assert spec_from_model(demo_model) == spec_from_folder(demo_model.path)


def test_a_layer_is_recognized_by_its_weights(demo_model: LanguageModel) -> None:
    spec = spec_from_model(demo_model)
    layer = spec.layers[0]
    assert (spec.hidden_size, spec.vocab_size, spec.heads, len(spec.layers)) == (192, 2048, 4, 5)
    assert (layer.query_width, layer.key_width, layer.mlp_width, layer.is_gated, layer.norms) == (192, 96, 448, True, 2)
    assert sorted(layer.linear) == sorted(
        [(192, 192, 1), (192, 96, 1), (192, 96, 1), (192, 192, 1), (192, 448, 1), (192, 448, 1), (448, 192, 1)]
    )


def test_an_unknown_family_is_counted_by_its_shapes(tmp_path: Path) -> None:
    names = {"embed.weight": (64, 8), "norm.weight": (8,)}
    for i in range(3):
        names |= {
            f"backbone.layers.{i}.mixer.mix_in.weight": (32, 8),
            f"backbone.layers.{i}.mixer.mix_out.weight": (8, 16),
        }
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {name: mx.zeros(shape) for name, shape in names.items()})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unknown"}))
    estimate = estimate_memory(
        spec_from_folder(tmp_path), SampleSizes([10, 20], [5, 5]), settings_of(), MemoryPlan(), None
    )
    assert estimate.training_bytes > estimate.loading_bytes == 4 * (64 * 8 + 8 + 3 * (32 * 8 + 8 * 16))


@pytest.mark.parametrize(
    "damage",
    [b"", struct.pack("<Q", 10**12) + b"{}", struct.pack("<Q", 4) + b"not json", struct.pack("<Q", 2) + b"[]"],
)
def test_a_damaged_weights_file_is_a_user_error(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(damage)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError):
        spec_from_folder(tmp_path)


def test_a_folder_without_a_model_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        spec_from_folder(tmp_path)


# Plans


@pytest.fixture(scope="module")
def plans(demo_model: LanguageModel) -> Any:
    spec = spec_from_model(demo_model)

    def plan(limit: int | None, **changes: Any) -> MemoryPlan:
        return fastest_plan(spec, SIZES, settings_of(batch_size=8, **changes), limit)

    return plan


def test_with_enough_memory_a_whole_step_is_computed_at_once_without_checkpointing(plans: Any) -> None:
    plan = plans(None, num_layers=2)
    assert plan.micro_batch_tokens >= sum(LENGTHS)
    assert not plan.gradient_checkpointing
    assert plan.cache_bytes == sum(LENGTHS) * 192 * 4


def test_with_less_memory_micro_batches_shrink_before_layers_are_checkpointed(plans: Any) -> None:
    whole = plans(None).estimated_peak_bytes
    found_plans = [plans(int(whole * ratio)) for ratio in (0.95, 0.75, 0.6, 0.4)]
    assert [plan.gradient_checkpointing for plan in found_plans] == sorted(
        plan.gradient_checkpointing for plan in found_plans
    )
    assert found_plans[0].micro_batch_tokens < sum(LENGTHS)
    assert not found_plans[0].gradient_checkpointing
    assert found_plans[-1].gradient_checkpointing


def test_if_no_plan_fits_the_error_says_what_is_needed_and_what_to_do(plans: Any) -> None:
    with pytest.raises(UserError) as caught:
        plans(1_000_000)
    line = caught.value.line()
    assert "needs at least" in line
    assert "num_layers" in line
    assert "\n" not in line


def test_configured_micro_batch_tokens_are_kept(plans: Any) -> None:
    assert plans(None, micro_batch_tokens=333).micro_batch_tokens == 333


@settings(max_examples=40, deadline=None)
@given(st.integers(20_000_000, 400_000_000), st.sampled_from([1, 3, -1]))
def test_no_plan_is_expected_to_exceed_the_limit(plans: Any, limit: int, layers: int) -> None:
    try:
        plan = plans(limit, num_layers=layers)
    except UserError:
        return
    assert plan.estimated_peak_bytes <= limit


def test_a_model_without_a_folder_gets_the_same_plan(demo_model: LanguageModel) -> None:
    data = TrainingData(random_samples(LENGTHS, 2048))
    plan = plan_memory(demo_model, data, settings_of())
    assert plan == plan_memory(LanguageModel(demo_model.model, demo_model.tokenizer), data, settings_of())
    assert plan.estimated_peak_bytes
    json.dumps(dataclasses.asdict(plan))


def test_usable_memory_is_what_the_system_reports_less_a_margin(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 2000 kB\nMemAvailable: 1000 kB\n")
    assert usable_memory_bytes(meminfo) == pytest.approx(mx.get_active_memory() + 0.9 * 1000 * 1024, abs=1)


def test_without_a_report_of_the_system_half_of_the_memory_is_usable(tmp_path: Path) -> None:
    assert (usable_memory_bytes(tmp_path / "none") or 0) > mx.get_active_memory()
