"""`study`: run, resume, status, report, and wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_personal import jobs
from mlx_personal.cli import study as commands
from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.study_progress import study_progress
from mlx_personal.finetune.config import OBJECTIVES
from mlx_personal.progress import ProgressEvent
from mlx_personal.research.study import cell_jobs
from mlx_personal.research.study.cell import PROTOCOL
from mlx_personal.research.study.datasets import DATASETS
from mlx_personal.research.study.grid import EXPERIMENTS, OWN_POLICIES, PAPER_POLICIES
from mlx_personal.research.study.histories import HISTORIES
from mlx_personal.research.study.stream import ORDERS
from mlx_personal.research.study.study_folder import CELLS
from tests.support.cli import error_line, run_cli, run_json
from tests.support.study_cells import make_result
from tests.support.study_runs import InProcessJobs, write_stream

SIZES = ["--received", "6", "--evaluation", "3", "--bins", "2", "--seeds", "1"]
POLICIES = ("base", *PAPER_POLICIES, *OWN_POLICIES)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a small study, whose cells take no time."""
    monkeypatch.setattr(jobs, "run_jobs", InProcessJobs())
    monkeypatch.setattr(cell_jobs, "run_cell", lambda job: make_result(job.cell))
    data = write_stream(tmp_path / "alpaca.jsonl")
    return ["study", "run", str(tmp_path / "study"), "--model", "demo", "--data", f"alpaca={data}", *SIZES]


def test_study_is_run_once_shown_and_reported(study: list[str], tmp_path: Path) -> None:
    folder, out, count = study[2], tmp_path / "report", len(POLICIES)
    first = run_cli(*study)
    assert first.exit_code == 0
    assert f"{count} cells computed, 0 stored already" in first.stdout
    assert f"cells {count}/{count}" in first.stderr  # a line a cell where standard error is no terminal
    assert run_json(*study) == {"found": count, "ran": 0, "failed": [], "left_out": []}
    assert run_json("study", "status", folder)["by_policy"] == {"alpaca": dict.fromkeys(POLICIES, 1)}
    assert f"{count} cells" in run_cli("study", "status", folder).stdout
    written = run_json("study", "report", folder, "--out", out)
    assert str(out / "report.md") in written["files"] and written["outdated"] == 0
    assert "ALPACA" in (out / "report.md").read_text()
    assert json.loads((out / "report.json").read_text())["settings"] == written["settings"]


def test_cells_beyond_the_budget_are_reported(study: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    result = run_cli(*study, "--seeds", "2", "--budget", "2")
    assert result.exit_code == 0
    assert f"Skipped to keep to the budget: {len(POLICIES)} cells." in result.stdout
    assert "main on alpaca, seed 1" in result.stdout


def test_failed_cell_sets_the_exit_code(study: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    in_process = InProcessJobs()
    in_process.error_of = lambda job: "out of breath" if getattr(job.argument, "kept", None) else None
    monkeypatch.setattr(jobs, "run_jobs", in_process)
    result = run_cli(*study)
    assert result.exit_code == 1
    assert "failed: fifo on alpaca, seed 0: out of breath" in result.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data", "imdb"], "no data set is called 'imdb'"),
        (["--data", "dolly=nowhere.jsonl"], "nowhere.jsonl"),
        (["--experiment", "all"], "'all' is not one of"),
        (["--evaluation", "999"], "too few"),
        (["--model", "/nowhere/at/all"], "no such model folder"),
        (["--data", "dolly="], "`dolly=` names no file"),
        (["--data", "alpaca=other.jsonl"], "`alpaca` is named twice"),
        (["--policy", "best"], "these experiments have no policy 'best'; choose from"),
        (["--negatives", "1"], "negatives are preference pairs"),
        (["--history", "msc"], "`msc` names no file"),
        (["--history", "diary=a.json"], "`diary` is not one of msc, locomo, prefeval"),
        (["--history", "msc=nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--order", "shuffled", "--strength", "0.5"], "--strength needs `--order correlated`; the order here is shuf"),
    ],
)
def test_wrong_input_is_reported_on_one_line(study: list[str], change: list[str], message: str) -> None:
    assert message in error_line(*study, *change)


def test_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    for command in (["status", tmp_path], ["report", tmp_path, "--out", tmp_path / "out"]):
        line = error_line("study", *command)
        assert f"there is no study here; run `mlx-personal study run {tmp_path}` first" in line


def test_file_instead_of_a_study_is_refused(study: list[str], tmp_path: Path) -> None:
    file = tmp_path / "alpaca.jsonl"
    for command in (["run", file, *study[3:]], ["status", file], ["report", file, "--out", tmp_path / "out"]):
        assert "alpaca.jsonl: is a file; a study is a folder; name a folder" in error_line("study", *command)


def test_choices_are_those_of_the_library() -> None:
    # Written down twice, since --help does not import the library.
    assert tuple(EXPERIMENTS) == commands._EXPERIMENTS
    assert tuple(DATASETS) == commands._DATA
    assert commands._ORDERS == ORDERS
    assert tuple(HISTORIES) == commands._HISTORIES
    assert commands._OBJECTIVES == OBJECTIVES


def test_cells_of_another_version_are_counted_separately(study: list[str]) -> None:
    run_cli(*study)
    file = Path(study[2]) / CELLS
    file.write_text(file.read_text().replace(f'"protocol":{PROTOCOL}', '"protocol":0', 1))
    result = run_cli("study", "status", study[2]).stdout
    assert f"{len(POLICIES) - 1} cells" in result
    assert "1 more cell was computed by another version of mlx-personal and left out." in result
    assert run_json("study", "status", study[2])["outdated"] == 1


def test_damaged_results_are_one_line(study: list[str], tmp_path: Path) -> None:
    run_cli(*study)
    file = Path(study[2]) / CELLS
    file.write_text("{" + file.read_text())
    for command in (["status", study[2]], ["report", study[2], "--out", tmp_path / "out"], study[1:]):
        assert f"{CELLS}: line 1 is not a JSON object; restore the file, or" in error_line("study", *command)


# Progress where there is no terminal


def test_progress_lines_at_begin_end_and_intervals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seconds = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: seconds[0])
    with study_progress(CommandContext(tmp_path)) as on_progress:
        for done in range(31):
            on_progress(ProgressEvent("embedding alpaca", done, 30, None if done == 0 else 30.0 - done))
            seconds[0] += 1
        on_progress(ProgressEvent("selection", 1, 9, None))
    assert capsys.readouterr().err.splitlines() == [
        "mlx-personal: embedding alpaca 0/30",
        "mlx-personal: embedding alpaca 10/30, 20 s left",
        "mlx-personal: embedding alpaca 20/30, 10 s left",
        "mlx-personal: embedding alpaca 30/30, 0 s left",
        "mlx-personal: selection 1/9",
    ]
