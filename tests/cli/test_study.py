"""`study`: run, resume, status, report, and wrong input."""

from __future__ import annotations

import json
import runpy
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import jobs
from mlx_personal.cli import study as commands
from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.study_progress import study_progress
from mlx_personal.progress import ProgressEvent
from mlx_personal.research.study import cell_jobs
from mlx_personal.research.study.datasets import DATASETS
from mlx_personal.research.study.grid import EXPERIMENTS
from mlx_personal.research.study.stream import ORDERS
from tests.support.cli import error_line, run_cli, run_json
from tests.support.paths import SCRIPTS
from tests.support.study_runs import InProcessJobs, write_stream

SIZES = ["--received", "6", "--every", "3", "--evaluation", "3", "--bins", "2", "--seeds", "1", "--synthetic", "0"]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a small study, whose cells take no time."""
    monkeypatch.setattr(jobs, "run_jobs", InProcessJobs())
    monkeypatch.setattr(cell_jobs, "run_cell", lambda job: cell_result(job.cell.policy))
    data = write_stream(tmp_path / "alpaca.jsonl")
    return ["study", "run", str(tmp_path / "study"), "--model", "demo", "--data", f"alpaca={data}", *SIZES]


def cell_result(policy: str) -> dict[str, Any]:
    """Return the stored result of a cell."""
    scores = {"rouge1": [0.1, 0.2, 0.3], "rougeL": [0.1, 0.1, 0.1], "answer_words": 4.0}
    training = {"kept": [], "questions": 2, "rows": 2, "synthetic": 0, "train_seconds": 1.0, "epochs": 3}
    received = [0] if policy == "base" else [3, 6]
    losses = {"nats": [5.0, 6.0, 7.0], "tokens": [3, 3, 3], "general_nats": [], "general_tokens": []}
    checkpoints = [{"received": r, **training, **scores} for r in received]
    return {"checkpoints": checkpoints, "final": losses, "machine": {"chip": "abacus"}, "seconds": 2.0}


def test_study_is_run_once_shown_and_reported(study: list[str], tmp_path: Path) -> None:
    folder, out = study[2], tmp_path / "report"
    first = run_cli(*study)
    assert first.exit_code == 0
    assert "8 cells computed, 0 stored already" in first.stdout
    assert "cells 8/8" in first.stderr  # a line a cell where standard error is no terminal
    assert run_json(*study) == {"found": 8, "ran": 0, "failed": [], "left_out": []}
    counts = run_json("study", "status", folder)["by_policy"]["alpaca"]
    assert counts == dict.fromkeys(["base", "quality", "random", "fifo", "k-center", "eoe", "dss", "idd"], 1)
    assert "8 cells; synthetic dialogues: none generated" in run_cli("study", "status", folder).stdout
    written = run_json("study", "report", folder, "--out", out)["files"]
    assert str(out / "report.md") in written
    assert "ALPACA" in (out / "report.md").read_text()
    assert json.loads((out / "report.json").read_text())["models"]


def test_cells_beyond_the_budget_are_reported(study: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    result = run_cli(*study, "--budget", "2")
    assert result.exit_code == 0
    assert "Skipped to keep to the budget: 3 cells." in result.stdout
    assert "ablation on alpaca" in result.stdout


def test_failed_cell_sets_the_exit_code(study: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    in_process = InProcessJobs()
    in_process.error_of = lambda job: "out of breath" if getattr(job.argument, "checkpoints", None) else None
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
        (["--received", "999"], "too few"),
        (["--writer", "nowhere"], "nowhere"),
        (["--model", "/nowhere/at/all"], "no such model folder"),
        (["--data", "dolly="], "`dolly=` names no file"),
        (["--data", "alpaca=other.jsonl"], "`alpaca` is named twice"),
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
    assert (*commands._EXPERIMENTS, *commands._SWEEPS) == tuple(EXPERIMENTS)
    assert tuple(DATASETS) == commands._DATA
    assert commands._ORDERS == ORDERS


def test_study_without_cells_is_shown(study: list[str]) -> None:
    error_line(*study, "--writer", "nowhere")
    result = run_cli("study", "status", study[2])
    assert result.exit_code == 0
    assert "0 cells; synthetic dialogues: none generated\nNo cell has finished" in result.stdout
    assert run_json("study", "status", study[2])["cells"] == 0


def test_changed_file_is_shown_as_two_sources(study: list[str], tmp_path: Path) -> None:
    run_cli(*study)
    assert "sources" not in run_cli("study", "status", study[2]).stdout
    with (tmp_path / "alpaca.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]}\n')
    run_cli(*study)
    assert "alpaca has 2 sources, which are not compared" in run_cli("study", "status", study[2]).stdout
    status = run_json("study", "status", study[2])
    assert list(status["by_source"]["alpaca"].values()) == [8, 8]
    assert list(status["by_model"]["alpaca"].values()) == [16]


def change_settings(folder: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the stored settings of the first cell of a study, as another version may have written them."""
    with sqlite3.connect(Path(folder) / "study.db") as connection:
        key, settings = connection.execute("SELECT key, settings FROM cells ORDER BY rowid").fetchone()
        plain = json.loads(settings)
        text = json.dumps(change(plain) or plain)
        connection.execute("UPDATE cells SET settings = ? WHERE key = ?", (text, key))


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.update(color="red"),
        lambda plain: plain.update(evaluation="many"),
        lambda plain: plain.update(policy="best"),
        lambda plain: plain.pop("policy") and None,
        lambda plain: ["a", "list"],
    ],
    ids=["unknown", "of another type", "of another value", "missing", "no settings"],
)
def test_unreadable_cell_is_reported_on_one_line(
    study: list[str], tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    run_cli(*study)
    change_settings(study[2], change)
    for command in (["status", study[2]], ["report", study[2], "--out", tmp_path / "out"]):
        line = error_line("study", *command)
        assert f"{study[2]}: this study holds a cell that this version of mlx-personal cannot read (" in line
        assert line.endswith("; upgrade mlx-personal, or run a new study in another folder")


def test_cells_of_another_version_are_counted_separately(study: list[str]) -> None:
    run_cli(*study)
    change_settings(study[2], lambda plain: plain.update(protocol=0))
    result = run_cli("study", "status", study[2]).stdout
    assert "7 cells; " in result
    assert "1 more cell was computed by an incompatible version" in result
    assert run_json("study", "status", study[2])["outdated"] == 1


def test_base_cell_without_the_constant_answer_is_of_another_version(study: list[str]) -> None:
    run_cli(*study)
    change_settings(study[2], lambda plain: plain.update(protocol=1))
    assert run_json("study", "status", study[2])["outdated"] == 1


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


# The script


def script(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the exit code of scripts/run_selection_study.py."""
    path = SCRIPTS / "run_selection_study.py"
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--streams": "empty"}, "empty: there is no stream in this folder; put some of alpaca.jsonl, dolly.jsonl,"),
        ({"--model": "/nowhere/at/all"}, "no such model folder"),
        ({"--chats": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"--chats": "streams/alpaca.jsonl"}, "alpaca.jsonl: not chats"),
        ({}, "alpaca: 12 dialogues are too few to stream 900"),
    ],
)
def test_script_reports_wrong_input_on_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    message: str,
) -> None:
    (tmp_path / "streams").mkdir()
    write_stream(tmp_path / "streams" / "alpaca.jsonl")
    monkeypatch.chdir(tmp_path)
    arguments = {"--streams": "streams", "--model": "demo", "--study": "study", "--out": "out"} | change
    assert script(*(part for pair in arguments.items() for part in pair), monkeypatch=monkeypatch) == 2
    result = capsys.readouterr()
    (line,) = result.err.splitlines()
    assert message in line
    assert result.out == ""
