"""`doctor`: the checks and their output."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

import mlx_personal
from mlx_personal.cli import doctor
from mlx_personal.runtime import blas_threads, device
from mlx_personal.runtime.blas_threads import ThreadChoice
from tests.support.cli import run_cli


def test_doctor_reports_the_machine(home: Path) -> None:
    result = run_cli("doctor", "--json")
    data = json.loads(result.stdout)
    assert data["gflops"] > 0
    assert {"device", "blas", "speed", "home", "profile"} <= {c["name"] for c in data["checks"]}
    assert result.exit_code == (0 if all(c["ok"] for c in data["checks"]) else 1)


def test_doctor_aligns_its_lines_and_reports_a_missing_model(
    home: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    run_cli("init", "--model", folder)
    assert {c["name"]: c["ok"] for c in json.loads(run_cli("doctor", "--json").stdout)["checks"]}["profile"]
    shutil.rmtree(folder)
    result = run_cli("doctor")
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("no  profile ")]
    assert "no such model folder" in line
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("ok  mlx-personal")]
    assert line.split() == ["ok", "mlx-personal", mlx_personal.__version__]


@pytest.mark.skipif(sys.platform != "linux", reason="the compiler matters on Linux only")
@pytest.mark.parametrize("tuned", [True, False])
def test_missing_compiler_fails_only_without_a_tuned_blas(monkeypatch: pytest.MonkeyPatch, tuned: bool) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    (check,) = doctor._check_compiler(tuned)
    assert check.ok == tuned


def measure(
    monkeypatch: pytest.MonkeyPatch, speeds: list[float], other_load: float | None
) -> tuple[doctor._Check, int]:
    """Return the check of a machine with these measured speeds, and how often it was measured."""
    taken = iter(speeds)
    monkeypatch.setattr(device, "measure_gflops", lambda: next(taken))
    choice = ThreadChoice(1, "since other processes use 1.4 of 2 processors", other_load)
    monkeypatch.setattr(blas_threads, "adapt_threads", lambda: choice)
    check = doctor._speed_check(*doctor._measure_speed())
    return check, len(speeds) - len(list(taken))


def test_a_low_speed_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    check, measurements = measure(monkeypatch, [99.0, 4.0, 61.0, 99.0], 0.0)
    assert (check.ok, check.busy, measurements) == (True, False, 3)
    assert check.found == "61 GFLOP/s in float32, measured now"


def test_a_low_speed_of_a_busy_machine_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    check, _ = measure(monkeypatch, [4.0] * 4, 1.4)
    assert (check.ok, check.busy) == (True, True)
    assert check.found.endswith(": other processes use 1.4 processors, so this says nothing")


@pytest.mark.parametrize("load", [0.1, None])
def test_a_low_speed_of_an_idle_machine_is_a_fault(load: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    check, _ = measure(monkeypatch, [4.0] * 4, load)
    assert (check.ok, check.busy) == (False, False)


def test_doctor_says_how_many_threads_multiply_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = ThreadChoice(1, "since other processes use 1.4 of 2 processors", 1.4)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    assert doctor._threads_check(choice).found == (
        "1, since other processes use 1.4 of 2 processors; OPENBLAS_NUM_THREADS=N sets another number"
    )
    assert doctor._threads_check(ThreadChoice(None, "chosen by the library Accelerate")).found == (
        "chosen by the library Accelerate"
    )
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert doctor._threads_check(ThreadChoice(3, "set by OPENBLAS_NUM_THREADS")).found == (
        "3, set by OPENBLAS_NUM_THREADS"
    )
