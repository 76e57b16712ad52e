"""The fine-tuning benchmark: a fair workload, mlx-lm as it is, and sides that are trained in turn."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.tuner import trainer

from mlx_personal import LanguageModel, UserError, load_language_model
from mlx_personal.benchmark import WORKLOADS, Workload, benchmark, harness, mlx_lm_trainer, schema, workloads
from mlx_personal.benchmark.training_run import OURS, PLAIN, STOCK, train_side
from mlx_personal.benchmark.workloads import make_rows, mlx_lm_order
from tests.support.paths import ROOT

TINY = Workload("small", "demo", rows=8, epochs=2, lora_layers=1)


def silent(*_: Any) -> None:
    pass


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides are trained here: what a process of their own costs is importing MLX again."""
    monkeypatch.setattr(harness, "run_child", train_side)


# The workload


@pytest.mark.parametrize("count", [32, 896])
def test_rows_have_the_lengths_of_personal_data(count: int) -> None:
    rows = make_rows(Workload("", "demo", count, 1, -1), 500)
    lengths = np.array([len(row.inputs) + 1 for row in rows])
    assert np.median(lengths) == pytest.approx(90, abs=3)
    assert np.quantile(lengths, 0.05) == pytest.approx(30, abs=6)
    assert np.quantile(lengths, 0.95) == pytest.approx(260, abs=26)
    assert lengths.max() <= workloads.LONGEST


def test_the_last_three_fifths_of_a_row_are_its_targets() -> None:
    for row in make_rows(WORKLOADS["135m"], 500):
        length = len(row.inputs) + 1
        count = int(row.is_target.sum())
        assert count == round(0.6 * length)
        assert row.is_target[-count:].all()
        np.testing.assert_array_equal(row.inputs[1:], row.targets[:-1])
        assert row.targets.min() >= 0 and row.targets.max() < 500


def test_a_seed_gives_its_rows_again_and_another_gives_others() -> None:
    once, again = make_rows(TINY, 500), make_rows(TINY, 500)
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a.inputs, b.inputs)
    other = make_rows(TINY.changed(seed=1), 500)
    assert [row.inputs.tolist() for row in other] != [row.inputs.tolist() for row in once]


def test_the_paper_workload_is_the_papers() -> None:
    paper = WORKLOADS["paper"]
    assert (paper.rows, paper.epochs, paper.model) == (896, 3, "3b")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rows": 7}, "no whole number of batches of 4"),
        ({"rows": 0}, "rows is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"lora_layers": 0}, "lora_layers is 0"),
        ({"lora_layers": -2}, "lora_layers is -2"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),  # mlx-lm's generator takes no more
    ],
)
def test_a_workload_that_cannot_be_compared_is_refused(settings: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        TINY.changed(**settings)


def test_more_adapted_layers_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match="the model has 5 layers"):
        train_side(PLAIN, TINY.changed(lora_layers=6), workloads.model_folder(TINY.model))


def test_random_weights_are_written_once_and_load_as_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {**workloads.SHAPES["135m"], "hidden_size": 36, "num_hidden_layers": 2, "vocab_size": 97}
    monkeypatch.setitem(workloads.SHAPES, "135m", shape)
    folder = workloads.model_folder("135m", tmp_path)
    model = load_language_model(folder).model
    assert len(model.layers) == 2
    assert model(mx.array([[1, 2, 3]])).shape == (1, 3, 97)
    assert workloads.vocabulary_of(folder) == 97
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert workloads.model_folder("135m", tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp


def test_shapes_have_the_sizes_that_their_names_say() -> None:
    counts = {}
    for name, shape in workloads.SHAPES.items():
        hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
        attention = 2 * hidden * hidden * (1 + shape["num_key_value_heads"] / heads)
        layer = attention + 3 * hidden * shape["intermediate_size"]
        counts[name] = shape["vocab_size"] * hidden + shape["num_hidden_layers"] * layer
    assert counts["135m"] == pytest.approx(134.5e6, rel=0.01)
    assert counts["1b"] == pytest.approx(1.236e9, rel=0.01)
    assert counts["3b"] == pytest.approx(3.213e9, rel=0.01)


# mlx-lm


def test_the_order_is_the_one_that_mlx_lm_draws() -> None:
    rows = make_rows(TINY, 500)
    data = mlx_lm_trainer._Recorded(mlx_lm_trainer._Raw(rows))
    np.random.seed(TINY.seed)
    batches = trainer.iterate_batches(data, TINY.batch_size, 4096, loop=True)
    for _ in range(TINY.epochs * TINY.rows // TINY.batch_size):
        next(batches)
    drawn = [data.taken[i : i + 4] for i in range(0, len(data.taken), 4)]
    assert drawn == [step for epoch in mlx_lm_order(TINY) for step in epoch]


def test_the_exact_loss_is_the_mean_over_the_targets_and_the_stock_loss_adds_one_a_row(
    tiny_model: LanguageModel,
) -> None:
    rows = make_rows(TINY, 384)[:2]
    data = mlx_lm_trainer._Recorded(mlx_lm_trainer._Raw(rows))
    ((batch, lengths),) = trainer.iterate_batches(data, 2, 4096)
    loss, count = mlx_lm_trainer.exact_loss(tiny_model.model, batch, lengths)
    expected, total = 0.0, 0
    for row in rows:
        logits = np.array(tiny_model.model(mx.array(row.inputs[None]))[0], np.float64)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected -= logs[np.arange(len(row.targets)), row.targets][row.is_target].sum()
        total += int(row.is_target.sum())
    assert count.item() == total
    assert loss.item() == pytest.approx(expected / total, rel=1e-5)
    assert mlx_lm_trainer.stock_loss(tiny_model.model, batch, lengths)[1].item() == total + 2


def test_mlx_lm_is_trained_without_its_screen_or_its_memory_limit(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def forbidden() -> None:
        raise AssertionError("the wired limit was set")

    monkeypatch.setattr(trainer, "maybe_set_recommended_wired_limit", forbidden)
    screen = trainer.TrainUI
    side = train_side(PLAIN, TINY, workloads.model_folder(TINY.model))
    assert len(side.losses) == len(side.times) == 4
    assert side.order == [step for epoch in mlx_lm_order(TINY) for step in epoch]
    assert side.peak_memory_bytes > 4 * side.model["parameters"]
    assert capfd.readouterr().out == ""
    assert trainer.TrainUI is screen
    assert trainer.maybe_set_recommended_wired_limit is forbidden
    assert not (Path.cwd() / "adapters.safetensors").exists()


def test_processed_tokens_count_the_padding_that_mlx_lm_computes() -> None:
    rows = make_rows(TINY, 500)
    data = mlx_lm_trainer._Recorded(mlx_lm_trainer._Raw(rows))
    np.random.seed(0)
    shapes = [batch.shape for batch, _ in trainer.iterate_batches(data, 4, 4096)]
    order = [data.taken[:4], data.taken[4:]]
    assert mlx_lm_trainer.processed_tokens(rows, order) == sum(b * (t - 1) for b, t in shapes)


# Ours


@pytest.mark.parametrize("layers", [1, 2, -1])
def test_both_sides_have_the_same_losses(layers: int) -> None:
    workload = TINY.changed(lora_layers=layers)
    folder = workloads.model_folder(workload.model)
    ours, theirs = (train_side(side, workload, folder) for side in (OURS, PLAIN))
    np.testing.assert_allclose(ours.losses, theirs.losses, atol=1e-4)
    assert ours.order == theirs.order
    assert ours.way == "packed"
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
    """A counter of 400 J a look, for this process and its children."""
    (tmp_path / "zeus_apple_silicon.py").write_text(COUNTER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "zeus_apple_silicon", raising=False)


def test_a_faked_counter_comes_out_as_joules_without_idle_power(
    counters: Any, in_this_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_personal.benchmark.IDLE_SECONDS", 0.2)
    monkeypatch.setattr("mlx_personal.benchmark.training_run._LOOK", 3600)
    result = benchmark(TINY, silent, "mlx-lm", rounds=1)
    idle = result["energy"]["idle_watts"]
    assert idle["total"] == pytest.approx(400 / result["energy"]["idle_seconds"])
    for side in (OURS, PLAIN, STOCK):
        (only,) = result["sides"][side]["rounds"]
        assert only["joules"]["total"] == pytest.approx(400.0)
        assert only["joules_without_idle"]["total"] == pytest.approx(400.0 - idle["total"] * only["seconds"])
        assert only["joules"]["dram"] is None
    assert "zeus-apple-silicon" in result["energy"]["sources"]


@pytest.mark.slow
def test_each_side_is_a_process_of_its_own_and_a_brief_run_ends_within_a_minute(counters: Any, tmp_path: Path) -> None:
    start = time.perf_counter()
    arguments = ["--shape", "135m", "--lora-layers", "8", "--against", "mlx-lm", "--json", "--quick"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.finetune", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 60
    result = json.loads(done.stdout)
    schema.check(result)
    assert result["time_ratio"] > 0 and result["memory_ratio"] > 0
    assert result["max_loss_difference"] < 1e-3
    joules = result["sides"]["mlx-lm"]["rounds"][0]["joules"]["total"]
    assert joules >= 400 and joules % 400 == 0  # a slow machine looks more than once


def test_sides_take_turns_and_who_begins_changes() -> None:
    assert harness._plan("mlx-lm", 2, stock=True) == [OURS, PLAIN, PLAIN, OURS, STOCK]
    assert harness._plan("mlx-lm", 1, stock=False) == [OURS, PLAIN]
    assert harness._plan(None, 2, stock=True) == [OURS, OURS]


@pytest.mark.parametrize(
    ("status", "complaint", "expected", "words"),
    [
        (-signal.SIGKILL, "", UserError, "for want of memory"),
        (1, "RuntimeError: [metal::malloc] Attempting to allocate", UserError, "ran out of memory"),
        (1, "Traceback\nKeyError: 'x'", RuntimeError, "KeyError"),
        (0, "", RuntimeError, "no message"),
    ],
)
def test_a_side_that_fails_says_why(
    monkeypatch: pytest.MonkeyPatch, status: Any, complaint: str, expected: Any, words: str
) -> None:
    done = subprocess.CompletedProcess([], status, "", complaint)
    monkeypatch.setattr(harness.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(expected, match=words):
        harness.run_child(OURS, TINY, Path("x"))


def test_a_users_error_crosses_from_the_process_of_a_side(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no vocab_size; name another model"):
        harness.run_child(PLAIN, TINY, tmp_path)
