"""The commands `benchmark run` and `benchmark report`."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest

from mlx_personal.benchmark import WORKLOADS, Workload, results
from mlx_personal.cli.benchmark import _WORKLOADS
from mlx_personal.errors import UserError
from mlx_personal.storage.files import check_writable
from tests.benchmark.example_runs import Result
from tests.support.cases import slow_cases
from tests.support.cli import error_line, run_cli, run_json


@pytest.fixture
def never_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if the benchmark runs."""

    def run(*_: object, **__: object) -> None:
        raise AssertionError("the benchmark ran")

    monkeypatch.setattr("mlx_personal.benchmark.run_benchmark", run)


@pytest.fixture
def measured_workloads(monkeypatch: pytest.MonkeyPatch, result: Result) -> list[Workload]:
    """The workloads of the benchmarks that were started, which return an example."""
    workloads: list[Workload] = []

    def run(workload: Workload, *_: object, **__: object) -> Result:
        workloads.append(workload)
        return result

    monkeypatch.setattr("mlx_personal.benchmark.run_benchmark", run)
    return workloads


def test_run_is_the_default_command_and_writes_its_result(in_this_process: None, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    sizes = ["--samples", 8, "--epochs", 1, "--rounds", 1]
    data = run_json("benchmark", *sizes, "--quick", "--out", out)
    assert results.read_result(out) == data


@pytest.mark.parametrize("name", ["no such folder/out.json", "file/out.json", "fifo", "x" * 300])
def test_nothing_is_measured_if_the_result_cannot_be_written(never_measured: None, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    error_line("benchmark", "--quick", "--out", tmp_path / name)
    assert not list(tmp_path.glob(".*.partial"))


def test_the_check_before_the_benchmark_changes_no_file(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("old")
    check_writable(tmp_path / "out.json")
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]
    assert (tmp_path / "out.json").read_text() == "old"
    with pytest.raises(UserError, match="is a folder"):
        check_writable(tmp_path)


def test_quick_keeps_the_sizes_of_the_options(measured_workloads: list[Workload]) -> None:
    sizes: tuple[list[object], ...] = (
        ["--samples", 4, "--epochs", 3, "--num-layers", 1],
        ["--samples", 320],
        ["--num-layers", 5],
        [],
    )
    for options in sizes:
        assert run_cli("benchmark", "--quick", *options).exit_code == 0
    measured = [(workload.samples, workload.epochs, workload.num_layers) for workload in measured_workloads]
    assert measured == [(4, 3, 1), (320, 2, 2), (16, 2, 5), (16, 2, 2)]
    assert {workload.model for workload in measured_workloads} == {"demo"}


def test_quick_refuses_another_model(never_measured: None) -> None:
    assert "leave out --quick" in error_line("benchmark", "--quick", "--model", "owner/name")


def test_quick_reports_what_differs_from_the_options(measured_workloads: list[Workload]) -> None:
    finished = run_cli("benchmark", "--quick", "--workload", "135m", "--num-layers", 8)
    assert [line.removeprefix("mlx-personal: ") for line in finished.stderr.splitlines()] == [
        "a quick benchmark trains the embedded model instead of 135m",
        "the embedded model has 5 layers, so all are adapted instead of 8",
    ]
    assert (measured_workloads[0].model, measured_workloads[0].num_layers) == ("demo", -1)
    assert run_cli("benchmark", "--quick").stderr == ""


def test_the_command_offers_all_workloads() -> None:
    assert {*_WORKLOADS} == {*WORKLOADS}


def test_the_result_of_both_trainers_is_shown(measured_workloads: list[Workload]) -> None:
    shown = run_cli("benchmark", "run").stdout
    for text in ("target tokens/s", "mlx-lm", "maximum difference of the losses", "idle power"):
        assert text in shown


def test_a_malformed_file_makes_the_exit_code_1(result: Result, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(result))
    assert run_cli("benchmark", "report", tmp_path).exit_code == 0
    (tmp_path / "b.json").write_text("{}")
    finished = run_cli("benchmark", "report", tmp_path, "--json")
    assert finished.exit_code == 1
    assert "b.json" in finished.stderr
    data = json.loads(finished.stdout)
    assert data["results"] == 1 and len(data["skipped"]) == 1


def test_all_malformed_files_are_reported_if_there_is_no_result(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("{")
    finished = run_cli("benchmark", "report", tmp_path)
    assert finished.exit_code == 2
    assert "a.json" in finished.stderr and "b.json" in finished.stderr
    assert "no benchmark result here" in finished.stderr


@pytest.mark.parametrize(
    "key",
    [
        "seconds",
        *slow_cases("peak_memory_bytes", "seconds_to_loss", "rows_per_second", "target_tokens_per_second"),
    ],
)
def test_a_value_that_was_not_measured_is_a_dash(result: Result, tmp_path: Path, key: str) -> None:
    changed = copy.deepcopy(result)
    for side in changed["sides"].values():
        side[key] = None
    (tmp_path / "a.json").write_text(json.dumps(changed))
    finished = run_cli("benchmark", "report", tmp_path, "--out", tmp_path / "table.md")
    assert finished.exit_code == 0, finished.output
    assert "| - |" in (tmp_path / "table.md").read_text()


def test_a_report_that_cannot_be_written_is_one_line(result: Result, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(result))
    for out in (tmp_path, tmp_path / "nowhere" / "table.md"):
        error_line("benchmark", "report", tmp_path, "--out", out)
