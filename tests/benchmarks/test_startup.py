"""The benchmark of the startup time."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def startup() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT))
    yield importlib.import_module("benchmarks.startup")
    sys.path.remove(str(ROOT))


@pytest.mark.slow
def test_every_command_is_measured_on_a_profile(startup: ModuleType, tmp_path: Path) -> None:
    startup.create_profile(tmp_path, 50)
    times = [startup.cpu_time_s(case, tmp_path) for case in startup.CASES]
    assert all(0 < time_s < 60 for time_s in times)


def test_a_missed_target_gives_exit_code_1(
    startup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu_times = {case.name: case.target_s for case in startup.CASES}
    monkeypatch.setattr(startup, "create_profile", lambda *_: None)
    monkeypatch.setattr(startup, "cpu_time_s", lambda case, _: cpu_times[case.name])
    assert startup.main([]) == 0
    assert "| mlx-personal status | 0.500 | 0.50 | yes |" in capsys.readouterr().out
    cpu_times["mlx-personal status"] += 0.001
    assert startup.main([]) == 1
    assert "| mlx-personal status | 0.501 | 0.50 | no |" in capsys.readouterr().out


def test_the_best_of_the_repeats_counts(
    startup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([9.0, 0.1, 9.0] * len(startup.CASES))
    monkeypatch.setattr(startup, "create_profile", lambda *_: None)
    monkeypatch.setattr(startup, "cpu_time_s", lambda *_: next(times))
    assert startup.main(["--repeats", "3"]) == 0
    assert capsys.readouterr().out.count("| 0.100 |") == len(startup.CASES)


def test_a_failing_command_is_an_error(startup: ModuleType, tmp_path: Path) -> None:
    case = startup.StartupCase("no such command", 1.0, ("no-such-command",))
    with pytest.raises(RuntimeError, match="no such command failed with exit code 2"):
        startup.cpu_time_s(case, tmp_path)
