"""The benchmarks: each command runs and reports what it says, and what the kernels are compared with is right."""

from __future__ import annotations

import importlib
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_personal.kernels.in_domain_distance import in_domain_distance_ops
from mlx_personal.kernels.nearest import nearest_ops
from mlx_personal.scoring import entropy_of_embedding
from tests.support.paths import ROOT


@pytest.fixture(scope="module", autouse=True)
def root_on_path() -> Any:
    """The benchmarks are no part of the package: they run in the root of a clone."""
    sys.path.insert(0, str(ROOT))
    yield
    sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def rivals() -> ModuleType:
    return importlib.import_module("benchmarks.scoring_baselines")


@pytest.fixture(scope="module")
def timing() -> ModuleType:
    return importlib.import_module("benchmarks.timing")


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_scoring_benchmark_prints_its_tables_and_keeps_them(tmp_path: Path) -> None:
    printed = run("scoring", "--quick", "--queries", "1", "--out", str(tmp_path / "scoring.md"))
    for column in ("NumPy, ms", "MLX ops, ms", "ours, ms", "running sum, ms", "loop over bins, ms", "order 2, ms"):
        assert f"| {column} |" in printed
    assert "| in_domain_distance | 512 | 384 | 1 | 8 |" in printed
    assert "| nearest | 32 | 384 | 1 |" in printed
    assert (tmp_path / "scoring.md").read_text() == printed.removesuffix("\n")


@pytest.mark.parametrize("name", ["finetune", "scoring", "selector"])
def test_a_report_that_could_not_be_kept_is_not_measured(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = importlib.import_module(f"benchmarks.{name}")
    assert benchmark.main(["--out", str(tmp_path / "nowhere" / "report")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"benchmarks.{name}: ") and printed.err.count("\n") == 1


def test_sizes_that_do_not_fit_the_memory_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scoring = importlib.import_module("benchmarks.scoring")
    monkeypatch.setattr(scoring, "find_torch", lambda: None)
    scoring.main(["--quick", "--queries", "1", "--memory", "0.001"])
    printed = capsys.readouterr().out
    assert "Left out for want of memory (R x D x queries): 512 x 384 x 1." in printed
    assert "No column of torch" in printed


def test_a_quick_stream_is_as_long_as_asked() -> None:
    selector = importlib.import_module("benchmarks.selector")
    assert selector.parse(["--quick"]).dialogues == 512
    assert selector.parse(["--quick", "--dialogues", "600"]).dialogues == 600
    assert selector.parse([]).dialogues == 100_000
    for arguments in (["--quick", "--dialogues", "511"], ["--dialogues", "600"]):
        with pytest.raises(SystemExit) as left:
            selector.parse(arguments)
        assert left.value.code == 2


def test_the_selector_benchmark_prints_a_row_a_stretch_and_draws_the_curve(tmp_path: Path) -> None:
    printed = run("selector", "--quick", "--out", str(tmp_path / "selector.md"))
    for column in ("received", "scoring, µs", "selection, µs", "store, µs", "memory, MiB", "replaced", "duplicate"):
        assert f"| {column} |" in printed
    rows = [line.strip(" |").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:3]] == ["256", "512"]
    assert all(sum(map(int, row[-4:])) == 128 for row in rows[1:3])
    assert xml.etree.ElementTree.parse(tmp_path / "selector.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize("domains", [1, 3])
def test_every_rival_computes_what_the_kernels_do(rivals: ModuleType, domains: int) -> None:
    problem = rivals.Problem(40, 24, 5, domains)
    queries, query_domains, bank, bank_domains = problem.arrays
    none = mx.full(5, -1, mx.int32)
    expected = np.array(in_domain_distance_ops(queries, query_domains, bank, bank_domains, none)[0])
    np.testing.assert_allclose(rivals.numpy_in_domain_distance(problem), expected, rtol=1e-5)
    for clipped in (rivals.loop_over_bins(problem), rivals.running_sum(problem)()):
        np.testing.assert_allclose(clipped, expected.clip(0, 1), rtol=1e-5)
    for found, expected in zip(rivals.numpy_nearest(problem), nearest_ops(queries, bank), strict=True):
        np.testing.assert_allclose(found, np.array(expected), rtol=1e-5)


def test_torch_computes_the_same(rivals: ModuleType) -> None:
    pytest.importorskip("sentence_transformers")
    problem, torch = rivals.Problem(40, 24, 5, 3), rivals.Torch()
    distances = torch.in_domain_distance(problem)()
    np.testing.assert_allclose(distances.cpu().numpy(), rivals.numpy_in_domain_distance(problem), rtol=1e-5)
    for found, expected in zip(torch.nearest(problem)(), rivals.numpy_nearest(problem), strict=True):
        np.testing.assert_allclose(found.cpu().numpy(), expected, rtol=1e-5)


def test_the_order_2_entropy_is_that_of_the_eigenvalue_shares(rivals: ModuleType) -> None:
    states = np.random.default_rng(0).standard_normal((2, 128, 16))
    expected = []
    for windows in states.reshape(2, 2, 64, 16):
        shares = [np.square(np.linalg.svd(w - w.mean(axis=0), compute_uv=False)) for w in windows]
        expected.append(np.mean([-np.log(np.square(s / s.sum()).sum()) for s in shares]) / np.log(64))
    found = np.array(rivals.order2_entropies(mx.array(states.astype(np.float32))))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert (found < [entropy_of_embedding(s) for s in states]).all()


def test_methods_are_timed_in_turn(timing: ModuleType) -> None:
    called = []
    methods = {name: lambda name=name: called.append(name) for name in "ab"}
    timings = timing.in_turn(methods, timing.Effort(seconds=0, least=3))
    assert [sorted(called[i : i + 2]) for i in range(0, len(called), 2)] == [["a", "b"]] * 4
    assert [len(s) for s in timings.seconds.values()] == [3, 3]


def test_a_ratio_is_the_median_of_the_ratios_within_repeats(timing: ModuleType) -> None:
    timings = timing.Timings({"ours": [2.0, 40.0, 6.0], "other": [1.0, 20.0, 2.0]})
    assert timings.ratio("ours", "other") == 2.0
    assert timings.median("ours") == 6.0
    assert timings.fastest(["absent", "ours", "other"]) == "other"


def test_bandwidth_is_reported_for_every_kernel_and_size(timing: ModuleType) -> None:
    bandwidth = importlib.import_module("benchmarks.bandwidth")
    effort = timing.Effort(seconds=0, least=2)
    section = bandwidth.bandwidth_section([(32, 16, 1), (32, 16, 8)], [(2, 64, 16)], effort)
    for line in ("in_domain_distance | R 32, D 16, 1 queries", "nearest | R 32, D 16, 8 queries", "B 2, T 64, D 16"):
        assert line in section
