"""The fine-tuning benchmark: the workload, mlx-lm unchanged, and trainers that run in turn."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.tuner import trainer

from mlx_personal import LanguageModel, UserError, load_language_model
from mlx_personal.benchmark import (
    WORKLOADS,
    Workload,
    harness,
    mlx_lm_trainer,
    random_weights,
    run_benchmark,
    schema,
    workloads,
)
from mlx_personal.benchmark.training_run import MLX_LM, MLX_LM_STOCK, OURS, train_once
from mlx_personal.benchmark.workloads import make_random_samples, mlx_lm_order
from mlx_personal.progress import ignore_progress
from tests.support.cases import slow_cases
from tests.support.paths import ROOT

TINY = Workload("small", "demo", samples=8, epochs=2, num_layers=1)


# The workload


@pytest.mark.parametrize("count", [32, 896])
def test_samples_have_the_lengths_of_personal_data(count: int) -> None:
    samples = make_random_samples(Workload("", "demo", count, 1, -1), 500)
    lengths = np.array([len(sample.inputs) + 1 for sample in samples])
    assert np.median(lengths) == pytest.approx(90, abs=3)
    assert np.quantile(lengths, 0.05) == pytest.approx(30, abs=6)
    assert np.quantile(lengths, 0.95) == pytest.approx(260, abs=26)
    assert lengths.max() <= workloads.MAX_TOKENS


def test_the_last_three_fifths_of_a_sample_are_its_targets() -> None:
    for sample in make_random_samples(WORKLOADS["135m"], 500):
        length = len(sample.inputs) + 1
        count = int(sample.is_target.sum())
        assert count == round(0.6 * length)
        assert sample.is_target[-count:].all()
        np.testing.assert_array_equal(sample.inputs[1:], sample.targets[:-1])
        assert sample.targets.min() >= 0 and sample.targets.max() < 500


def test_samples_depend_on_the_seed() -> None:
    first, second = make_random_samples(TINY, 500), make_random_samples(TINY, 500)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.inputs, b.inputs)
    other = make_random_samples(TINY.with_settings(seed=1), 500)
    assert [sample.inputs.tolist() for sample in other] != [sample.inputs.tolist() for sample in first]


def test_the_paper_workload_has_the_settings_of_the_paper() -> None:
    paper = WORKLOADS["paper"]
    assert (paper.samples, paper.epochs, paper.model) == (896, 3, "3b")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 7}, "7 samples do not fill batches of 4"),
        ({"samples": 0}, "samples is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"num_layers": -2}, "num_layers is -2"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),  # beyond the generator of mlx-lm
    ],
)
def test_a_workload_that_cannot_be_compared_is_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TINY.with_settings(**settings)


def test_more_layers_than_the_model_has_are_refused() -> None:
    with pytest.raises(UserError, match="the model has 5 layers"):
        train_once(MLX_LM, TINY.with_settings(num_layers=6), random_weights.model_folder(TINY.model))


def test_random_weights_are_written_once_and_load_as_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {**random_weights.SHAPES["135m"], "hidden_size": 36, "num_hidden_layers": 2, "vocab_size": 2100}
    monkeypatch.setitem(random_weights.SHAPES, "135m", shape)
    folder = random_weights.model_folder("135m", tmp_path)
    model = load_language_model(folder).model
    assert len(model.layers) == 2
    assert model(mx.array([[1, 2, 3]])).shape == (1, 3, 2100)
    assert random_weights.vocabulary_size(folder) == 2100
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert random_weights.model_folder("135m", tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp


def test_the_shapes_have_the_sizes_of_their_names() -> None:
    counts = {}
    for name, shape in random_weights.SHAPES.items():
        hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
        attention = 2 * hidden * hidden * (1 + shape["num_key_value_heads"] / heads)
        layer = attention + 3 * hidden * shape["intermediate_size"]
        counts[name] = shape["vocab_size"] * hidden + shape["num_hidden_layers"] * layer
    assert counts["135m"] == pytest.approx(134.5e6, rel=0.01)
    assert counts["1b"] == pytest.approx(1.236e9, rel=0.01)
    assert counts["3b"] == pytest.approx(3.213e9, rel=0.01)


# mlx-lm


def test_the_order_is_that_of_mlx_lm() -> None:
    samples = make_random_samples(TINY, 500)
    data = mlx_lm_trainer._RecordingDataset(mlx_lm_trainer._SampleDataset(samples))
    np.random.seed(TINY.seed)
    batches = trainer.iterate_batches(data, TINY.batch_size, 4096, loop=True)
    for _ in range(TINY.epochs * TINY.samples // TINY.batch_size):
        next(batches)
    drawn = [data.taken[i : i + 4] for i in range(0, len(data.taken), 4)]
    assert drawn == [step for epoch in mlx_lm_order(TINY) for step in epoch]


def test_the_exact_loss_is_the_mean_over_the_targets_and_the_stock_loss_adds_one_per_sample(
    tiny_model: LanguageModel,
) -> None:
    samples = make_random_samples(TINY, 384)[:2]
    data = mlx_lm_trainer._RecordingDataset(mlx_lm_trainer._SampleDataset(samples))
    ((batch, lengths),) = trainer.iterate_batches(data, 2, 4096)
    loss, count = mlx_lm_trainer.exact_loss(tiny_model.model, batch, lengths)
    expected, total = 0.0, 0
    for sample in samples:
        logits = np.array(tiny_model.model(mx.array(sample.inputs[None]))[0], np.float64)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected -= logs[np.arange(len(sample.targets)), sample.targets][sample.is_target].sum()
        total += int(sample.is_target.sum())
    assert count.item() == total
    assert loss.item() == pytest.approx(expected / total, rel=1e-5)
    assert mlx_lm_trainer.stock_loss(tiny_model.model, batch, lengths)[1].item() == total + 2


@pytest.mark.slow
def test_mlx_lm_trains_without_its_display_and_memory_limit(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def forbidden() -> None:
        raise AssertionError("the wired limit was set")

    monkeypatch.setattr(trainer, "maybe_set_recommended_wired_limit", forbidden)
    display = trainer.TrainUI
    run = train_once(MLX_LM, TINY, random_weights.model_folder(TINY.model))
    assert len(run.losses) == len(run.step_ends_s) == 4
    assert run.batches == [step for epoch in mlx_lm_order(TINY) for step in epoch]
    assert run.peak_memory_bytes > 4 * run.model_metadata["parameters"]
    assert capfd.readouterr().out == ""
    assert trainer.TrainUI is display
    assert trainer.maybe_set_recommended_wired_limit is forbidden
    assert not (Path.cwd() / "adapters.safetensors").exists()


def test_processed_tokens_include_the_padding_of_mlx_lm() -> None:
    samples = make_random_samples(TINY, 500)
    data = mlx_lm_trainer._RecordingDataset(mlx_lm_trainer._SampleDataset(samples))
    np.random.seed(0)
    shapes = [batch.shape for batch, _ in trainer.iterate_batches(data, 4, 4096)]
    batches = [data.taken[:4], data.taken[4:]]
    assert mlx_lm_trainer.count_processed_tokens(samples, batches) == sum(b * (t - 1) for b, t in shapes)


# Ours


@pytest.mark.parametrize("num_layers", [1, *slow_cases(2, -1)])
def test_both_trainers_have_the_same_losses(num_layers: int) -> None:
    workload = TINY.with_settings(num_layers=num_layers)
    folder = random_weights.model_folder(workload.model)
    ours, mlx_lm = (train_once(trainer, workload, folder) for trainer in (OURS, MLX_LM))
    np.testing.assert_allclose(ours.losses, mlx_lm.losses, atol=1e-4)
    assert ours.batches == mlx_lm.batches
    assert ours.forward_mode == "packed"
    assert ours.fallback_reason is None


# The whole path


COUNTER = """
class Metrics:
    cpu_total_mj, gpu_mj, dram_mj, ane_mj = 0, 0, None, None

class AppleEnergyMonitor:
    def get_cumulative_energy(self):
        Metrics.cpu_total_mj += 100_000
        Metrics.gpu_mj += 300_000
        return Metrics
"""


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that adds 400 J per reading, for this process and its children."""
    (tmp_path / "zeus_apple_silicon.py").write_text(COUNTER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "zeus_apple_silicon", raising=False)


@pytest.mark.slow
def test_the_energy_of_a_counter_is_reported_without_idle_power(
    counters: None, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_personal.benchmark.IDLE_S", 0.2)
    monkeypatch.setattr("mlx_personal.benchmark.training_run._READ_INTERVAL_S", 3600)
    workload = TINY.with_settings(samples=4, epochs=1)
    result = run_benchmark(workload, ignore_progress, "mlx-lm", rounds=1)
    idle = result["energy"]["idle_watts"]
    assert idle["total"] == pytest.approx(400 / result["energy"]["idle_seconds"])
    for trainer_name in (OURS, MLX_LM, MLX_LM_STOCK):
        (round_,) = result["sides"][trainer_name]["rounds"]
        assert round_["joules"]["total"] == pytest.approx(400.0)
        assert round_["joules_without_idle"]["total"] == pytest.approx(400.0 - idle["total"] * round_["seconds"])
        assert round_["joules"]["dram"] is None
    assert "zeus-apple-silicon" in result["energy"]["sources"]


@pytest.mark.slow
def test_a_quick_run_in_child_processes_ends_within_a_minute(counters: None) -> None:
    start = time.perf_counter()
    arguments = ["--shape", "135m", "--num-layers", "8", "--against", "mlx-lm", "--json", "--quick"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.finetune", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 60
    result = json.loads(done.stdout)
    schema.validate(result)
    assert result["time_ratio"] > 0 and result["memory_ratio"] > 0
    assert result["max_loss_difference"] < 1e-3
    joules = result["sides"]["mlx-lm"]["rounds"][0]["joules"]["total"]
    assert joules >= 400 and joules % 400 == 0  # a slow machine reads more than once


def test_trainers_take_turns_and_the_first_alternates() -> None:
    assert harness._trainer_order("mlx-lm", 2, stock=True) == [OURS, MLX_LM, MLX_LM, OURS, MLX_LM_STOCK]
    assert harness._trainer_order("mlx-lm", 1, stock=False) == [OURS, MLX_LM]
    assert harness._trainer_order(None, 2, stock=True) == [OURS, OURS]


@pytest.mark.parametrize(
    ("status", "stderr", "expected", "message"),
    [
        (-signal.SIGKILL, "", UserError, "because memory ran out"),
        (1, "RuntimeError: [metal::malloc] Attempting to allocate", UserError, "ran out of memory"),
        (1, "Traceback\nKeyError: 'x'", RuntimeError, "KeyError"),
        (0, "", RuntimeError, "no message"),
    ],
)
def test_the_error_of_a_failed_training_names_the_cause(
    monkeypatch: pytest.MonkeyPatch, status: int, stderr: str, expected: type[Exception], message: str
) -> None:
    finished = subprocess.CompletedProcess([], status, "", stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: finished)
    with pytest.raises(expected, match=message):
        harness.train_in_child_process(OURS, TINY, Path("x"))


def test_a_user_error_is_raised_in_the_parent_process(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no vocab_size; name another model"):
        harness.train_in_child_process(MLX_LM, TINY, tmp_path)
