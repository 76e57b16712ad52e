"""The command `study` as its users meet it: run, go on, look, report, and what it says to wrong input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_cli import as_json, refused, run
from test_study_run import Here, stream

from mlx_personal import cluster
from mlx_personal.study import jobs

SIZES = ["--received", "6", "--every", "3", "--evaluation", "3", "--bins", "2", "--seeds", "1", "--synthetic", "0"]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a small study, whose cells take no time."""
    monkeypatch.setattr(cluster, "run", Here())
    monkeypatch.setattr(jobs, "run", lambda job: result(job.cell.policy))
    data = stream(tmp_path / "alpaca.jsonl")
    return ["study", "run", str(tmp_path / "study"), "--model", "demo", "--data", f"alpaca={data}", *SIZES]


def result(policy: str) -> dict[str, Any]:
    scores = {"rouge1": [0.1, 0.2, 0.3], "rougeL": [0.1, 0.1, 0.1], "answer_words": 4.0}
    facts = {"kept": [], "questions": 2, "rows": 2, "synthetic": 0, "train_seconds": 1.0, "epochs": 3}
    received = [0] if policy == "base" else [3, 6]
    nats = {"nats": [5.0, 6.0, 7.0], "tokens": [3, 3, 3], "general_nats": [], "general_tokens": []}
    checkpoints = [{"received": r, **facts, **scores} for r in received]
    return {"checkpoints": checkpoints, "final": nats, "machine": {"chip": "abacus"}, "seconds": 2.0}


def test_a_study_is_run_once_looked_at_and_reported(study: list[str], tmp_path: Path) -> None:
    folder, out = study[2], tmp_path / "report"
    first = run(*study)
    assert first.exit_code == 0
    assert "8 cells run, 0 were there already" in first.stdout
    assert "cells 8/8" in first.stderr  # a line a cell where standard error is no terminal
    assert as_json(*study) == {"found": 8, "ran": 0, "failed": [], "left_out": []}
    counts = as_json("study", "status", folder)["by_policy"]["alpaca"]
    assert counts == dict.fromkeys(["base", "quality", "random", "fifo", "k-center", "eoe", "dss", "idd"], 1)
    assert "8 cells; synthetic sets: none written" in run("study", "status", folder).stdout
    written = as_json("study", "report", folder, "--out", out)["files"]
    assert str(out / "report.md") in written
    assert "ALPACA" in (out / "report.md").read_text()
    assert json.loads((out / "report.json").read_text())["models"]


def test_what_a_budget_leaves_out_is_told(study: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_personal.study import run as running

    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(running.time, "perf_counter", lambda: float(next(clock)))
    shown = run(*study, "--budget", "2")
    assert shown.exit_code == 0
    assert "Left out for the budget: 3 cells." in shown.stdout
    assert "ablation on alpaca" in shown.stdout


def test_a_failed_cell_makes_the_answer_no(study: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    here = Here()
    here.fails = lambda job: "out of breath" if getattr(job.argument, "lessons", None) else None
    monkeypatch.setattr(cluster, "run", here)
    shown = run(*study)
    assert shown.exit_code == 1
    assert "failed: fifo on alpaca, seed 0: out of breath" in shown.stdout


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--data", "imdb"], "no data set is called 'imdb'"),
        (["--data", "dolly=nowhere.jsonl"], "nowhere.jsonl"),
        (["--experiment", "all"], "'all' is not one of"),
        (["--received", "999"], "too few"),
        (["--writer", "nowhere"], "nowhere"),
        (["--model", "/nowhere/at/all"], "no such model folder"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(study: list[str], change: list[str], says: str) -> None:
    assert says in refused(*study, *change)


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    for command in (["status", tmp_path], ["report", tmp_path, "--out", tmp_path / "out"]):
        assert "there is no study here" in refused("study", *command)
