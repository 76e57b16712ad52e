"""The commands of the benchmarks print their reports, and the baselines of the kernels compute the same results."""

from __future__ import annotations

import functools
import importlib
import os
import re
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import numpy as np
import pytest

from mlx_personal.kernels.in_domain_distance import in_domain_distance_ops
from mlx_personal.kernels.nearest import nearest_ops
from mlx_personal.scoring import entropy_of_embedding
from tests.support.paths import ROOT


@pytest.fixture(scope="module", autouse=True)
def root_on_path() -> Iterator[None]:
    """The benchmarks are not part of the package; they run in the root of a clone."""
    sys.path.insert(0, str(ROOT))
    yield
    sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def baselines() -> ModuleType:
    return importlib.import_module("benchmarks.scoring_baselines")


@pytest.fixture(scope="module")
def timing() -> ModuleType:
    return importlib.import_module("benchmarks.timing")


def run(name: str, *arguments: str) -> str:
    """Run a benchmark and return what it prints."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_the_scoring_benchmark_prints_and_writes_its_tables(tmp_path: Path) -> None:
    printed = run("scoring", "--quick", "--queries", "1", "--out", str(tmp_path / "scoring.md"))
    for column in ("NumPy, ms", "MLX ops, ms", "ours, ms", "running sum, ms", "loop over bins, ms", "order 2, ms"):
        assert f"| {column} |" in printed
    assert "| in_domain_distance | 512 | 384 | 1 | 8 |" in printed
    assert "| nearest | 32 | 384 | 1 |" in printed
    assert (tmp_path / "scoring.md").read_text() == printed.removesuffix("\n")


@pytest.mark.parametrize("name", ["finetune", "scoring", "selector"])
def test_nothing_is_measured_if_the_report_cannot_be_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = importlib.import_module(f"benchmarks.{name}")
    assert benchmark.main(["--out", str(tmp_path / "nowhere" / "report")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"benchmarks.{name}: ") and printed.err.count("\n") == 1


def test_sizes_that_do_not_fit_the_memory_are_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scoring = importlib.import_module("benchmarks.scoring")
    monkeypatch.setattr(scoring, "find_torch", lambda: None)
    scoring.main(["--quick", "--queries", "1", "--memory", "0.001"])
    printed = capsys.readouterr().out
    assert "Left out for lack of memory (R x D x queries): 512 x 384 x 1." in printed
    assert "There is no column for torch" in printed


def test_a_quick_stream_has_the_given_length() -> None:
    selector = importlib.import_module("benchmarks.selector")
    assert selector.parse(["--quick"]).dialogues == 512
    assert selector.parse(["--quick", "--dialogues", "600"]).dialogues == 600
    assert selector.parse([]).dialogues == 100_000
    for arguments in (["--quick", "--dialogues", "511"], ["--dialogues", "600"]):
        with pytest.raises(SystemExit) as raised:
            selector.parse(arguments)
        assert raised.value.code == 2


@pytest.mark.slow
def test_the_selector_benchmark_prints_a_row_for_each_point_and_draws_the_curve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    selector = importlib.import_module("benchmarks.selector")
    assert selector.main(["--quick", "--out", str(tmp_path / "selector.md")]) == 0
    printed = capsys.readouterr().out
    for column in ("received", "scoring, µs", "selection, µs", "store, µs", "memory, MiB", "replaced", "duplicate"):
        assert f"| {column} |" in printed
    rows = [line.strip(" |").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:3]] == ["256", "512"]
    assert all(sum(map(int, row[-4:])) == 128 for row in rows[1:3])
    assert xml.etree.ElementTree.parse(tmp_path / "selector.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize("domains", [1, 3])
def test_every_baseline_computes_what_the_kernels_do(baselines: ModuleType, domains: int) -> None:
    problem = baselines.ScoringProblem(40, 24, 5, domains)
    queries, query_domains, bank, bank_domains = problem.arrays
    no_exclusion = mx.full(5, -1, mx.int32)
    expected = np.array(in_domain_distance_ops(queries, query_domains, bank, bank_domains, no_exclusion)[0])
    np.testing.assert_allclose(baselines.numpy_in_domain_distance(problem), expected, rtol=1e-5)
    for clipped in (baselines.loop_over_bins(problem), baselines.running_sum(problem)()):
        np.testing.assert_allclose(clipped, expected.clip(0, 1), rtol=1e-5)
    for computed, reference in zip(baselines.numpy_nearest(problem), nearest_ops(queries, bank), strict=True):
        np.testing.assert_allclose(computed, np.array(reference), rtol=1e-5)


def test_the_torch_baseline_computes_the_same(baselines: ModuleType) -> None:
    pytest.importorskip("sentence_transformers")
    problem, torch = baselines.ScoringProblem(40, 24, 5, 3), baselines.TorchBaseline()
    distances = torch.in_domain_distance(problem)()
    np.testing.assert_allclose(distances.cpu().numpy(), baselines.numpy_in_domain_distance(problem), rtol=1e-5)
    for computed, reference in zip(torch.nearest(problem)(), baselines.numpy_nearest(problem), strict=True):
        np.testing.assert_allclose(computed.cpu().numpy(), reference, rtol=1e-5)


def test_the_order_2_entropy_is_computed_from_the_eigenvalue_shares(baselines: ModuleType) -> None:
    states = np.random.default_rng(0).standard_normal((2, 128, 16))
    expected = []
    for windows in states.reshape(2, 2, 64, 16):
        shares = [np.square(np.linalg.svd(w - w.mean(axis=0), compute_uv=False)) for w in windows]
        expected.append(np.mean([-np.log(np.square(s / s.sum()).sum()) for s in shares]) / np.log(64))
    entropies = np.array(baselines.order2_entropies(mx.array(states.astype(np.float32))))
    np.testing.assert_allclose(entropies, expected, rtol=1e-4)
    assert (entropies < [entropy_of_embedding(s) for s in states]).all()


def test_methods_are_timed_in_turn(timing: ModuleType) -> None:
    called: list[str] = []
    methods = {name: functools.partial(called.append, name) for name in "ab"}
    timings = timing.time_in_turn(methods, timing.Effort(duration_s=0, min_repeats=3))
    assert [sorted(called[i : i + 2]) for i in range(0, len(called), 2)] == [["a", "b"]] * 4
    assert [len(s) for s in timings.seconds.values()] == [3, 3]


def test_a_ratio_is_the_median_of_the_ratios_within_repeats(timing: ModuleType) -> None:
    timings = timing.Timings({"ours": [2.0, 40.0, 6.0], "other": [1.0, 20.0, 2.0]})
    assert timings.ratio("ours", "other") == 2.0
    assert timings.median("ours") == 6.0
    assert timings.fastest(["absent", "ours", "other"]) == "other"


def test_bandwidth_is_reported_for_every_kernel_and_size(timing: ModuleType) -> None:
    bandwidth = importlib.import_module("benchmarks.bandwidth")
    effort = timing.Effort(duration_s=0, min_repeats=2)
    section = bandwidth.bandwidth_section([(32, 16, 1), (32, 16, 8)], [(2, 64, 16)], effort)
    for line in ("in_domain_distance | R 32, D 16, 1 queries", "nearest | R 32, D 16, 8 queries", "B 2, T 64, D 16"):
        assert line in section


@pytest.mark.slow
def test_the_real_model_benchmark_compares_every_task(tmp_path: Path) -> None:
    printed = run("real_model", "--quick", "--out", str(tmp_path / "real_model.md"))
    for start in (
        "| embedding | mlx-lm, one by one |",
        "| generation | mlx_lm.batch_generate |",
        "| generation | loop of mlx_lm.generate |",
        "| fine-tuning | mlx-lm |",
        "| packed |",
        "| plain |",
    ):
        assert start in printed
    # A tie of two logits may change a text, but not each of them.
    assert "| 0 of 6 texts equal |" not in printed
    (difference,) = re.findall(r"largest difference ([\d.e-]+) \|", printed)
    assert float(difference) < 1e-5
    assert (tmp_path / "real_model.md").read_text() == printed.removesuffix("\n")


def test_the_real_model_benchmark_refuses_a_short_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real_model = importlib.import_module("benchmarks.real_model")
    (tmp_path / "one.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]}\n'
    )
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert real_model.main(["--quick", str(tmp_path / "one.jsonl")]) == 2
    assert "has 1 dialogues, not 6; choose fewer with --dialogues" in capsys.readouterr().err
