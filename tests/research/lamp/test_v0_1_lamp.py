"""Results that version 0.1 stored are found again, so the same command computes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_personal.research.lamp.lamp_database import LampDatabase
from mlx_personal.research.lamp.lamp_report import method_rows, write_report
from mlx_personal.research.lamp.lamp_results import MethodResult
from mlx_personal.research.lamp.tasks import TASKS
from tests.support.paths import FIXTURES

WORLD = FIXTURES / "v0_1" / "lamp" / "lampworld"
SETTING = "0ad2e2afa1cf24a4d3d0760bdde5d1a1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a run of version 0.1."""
    copy = tmp_path / "lamp"
    copy.mkdir()
    shutil.copy(FIXTURES / "v0_1" / "lamp" / "lamp.db", copy)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("name", ["non-personalised", "non-personalized"])
def test_the_same_command_finds_all_results(folder: Path, tmp_path: Path, name: str) -> None:
    arguments = ["--task", "3", "--questions", WORLD / "LaMP_3_questions.json"]
    arguments += ["--outputs", WORLD / "LaMP_3_outputs.json", "--model", "demo", "--out", folder]
    arguments += ["--method", f"{name},oppu", "--answer-tokens", "3", "--synthetic", "2", "--epochs", "1"]
    start = "from mlx_personal.cli.main import main; main()"
    command = [sys.executable, "-c", start, "lamp", "run", *map(str, arguments), "--workers", "1", "--json"]
    environment = {**os.environ, "MLX_PERSONAL_HOME": str(tmp_path / "home")}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stderr
    data = json.loads(finished.stdout)
    assert (data["found"], data["ran"], data["failed"], data["unanswered"]) == (6, 0, [], 0)
    assert [row["method"] for row in data["methods"]] == ["non-personalized", "oppu"]


def test_stored_results_are_read_and_written_back_unchanged(folder: Path) -> None:
    with LampDatabase(folder) as database:
        assert list(database.settings()) == [SETTING]
        results = database.results(SETTING)
        stored = [json.loads(row["result"]) for row in database.database.fetch_all("SELECT result FROM results")]
        rows = method_rows(TASKS["3"], results)
        report = write_report(database)
    assert [(result.user, result.method) for result in results[:2]] == [
        ("user-1-0", "non-personalized"),
        ("user-1-0", "oppu"),
    ]
    assert results[1].result.training_samples == 4 and results[1].result.adapter_bytes == 529410
    assert all(MethodResult.from_json(data).to_json() == data for data in stored) and len(stored) == 6
    assert [(row.method, row.num_users, row.num_queries) for row in rows] == [
        ("non-personalized", 3, 6),
        ("oppu", 3, 6),
    ]
    assert report.startswith("## LaMP-3, demo; synthetic records by the model itself\n")
