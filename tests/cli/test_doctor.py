"""`doctor`: the checks and their output."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

import mlx_personal
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
    from mlx_personal.cli import doctor

    monkeypatch.setattr("shutil.which", lambda name: None)
    (check,) = doctor._check_compiler(tuned)
    assert check.ok == tuned
