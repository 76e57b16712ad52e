"""The command `study` as its users meet it: run, go on, look, report, and what it says to wrong input."""

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
from mlx_personal.cli import study_progress
from mlx_personal.cli.context import Cli
from mlx_personal.profile import Home
from mlx_personal.research.study import ProgressEvent, cell_jobs
from mlx_personal.research.study.datasets import DATASETS
from mlx_personal.research.study.grid import EXPERIMENTS
from mlx_personal.research.study.stream import ORDERS
from tests.cli.test_cli import as_json, refused, run
from tests.research.study.test_scheduler import Here, stream
from tests.support.paths import SCRIPTS

SIZES = ["--received", "6", "--every", "3", "--evaluation", "3", "--bins", "2", "--seeds", "1", "--synthetic", "0"]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a small study, whose cells take no time."""
    monkeypatch.setattr(jobs, "run", Here())
    monkeypatch.setattr(cell_jobs, "run", lambda job: result(job.cell.policy))
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
    from mlx_personal.research.study import scheduler as running

    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(running.time, "perf_counter", lambda: float(next(clock)))
    shown = run(*study, "--budget", "2")
    assert shown.exit_code == 0
    assert "Left out for the budget: 3 cells." in shown.stdout
    assert "ablation on alpaca" in shown.stdout


def test_a_failed_cell_makes_the_answer_no(study: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    here = Here()
    here.fails = lambda job: "out of breath" if getattr(job.argument, "lessons", None) else None
    monkeypatch.setattr(jobs, "run", here)
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
        (["--data", "dolly="], "`dolly=` names no file"),
        (["--data", "alpaca=other.jsonl"], "`alpaca` is named twice"),
        (["--order", "shuffled", "--strength", "0.5"], "--strength is of `--order correlated`; the order here is shuf"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(study: list[str], change: list[str], says: str) -> None:
    assert says in refused(*study, *change)


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    for command in (["status", tmp_path], ["report", tmp_path, "--out", tmp_path / "out"]):
        assert "there is no study here" in refused("study", *command)


def test_a_file_in_the_place_of_a_study_is_refused(study: list[str], tmp_path: Path) -> None:
    file = tmp_path / "alpaca.jsonl"
    for command in (["run", file, *study[3:]], ["status", file], ["report", file, "--out", tmp_path / "out"]):
        assert "alpaca.jsonl: is a file; a study is a folder; name a folder" in refused("study", *command)


def test_what_the_command_offers_is_what_the_library_has() -> None:
    # Written down twice, since --help does not wait for the library.
    assert (*commands._EXPERIMENTS, *commands._SWEEPS) == tuple(EXPERIMENTS)
    assert tuple(DATASETS) == commands._DATA
    assert commands._ORDERS == ORDERS


def test_a_study_whose_run_failed_has_no_cells_and_says_so(study: list[str]) -> None:
    refused(*study, "--writer", "nowhere")
    shown = run("study", "status", study[2])
    assert shown.exit_code == 0
    assert "0 cells; synthetic sets: none written\nNo cell has finished" in shown.stdout
    assert as_json("study", "status", study[2])["cells"] == 0


def test_a_file_that_changed_is_told_as_two_sources(study: list[str], tmp_path: Path) -> None:
    run(*study)
    assert "sources" not in run("study", "status", study[2]).stdout
    with (tmp_path / "alpaca.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]}\n')
    run(*study)
    assert "alpaca has 2 sources, which are not compared" in run("study", "status", study[2]).stdout
    status = as_json("study", "status", study[2])
    assert list(status["by_source"]["alpaca"].values()) == [8, 8]
    assert list(status["by_model"]["alpaca"].values()) == [16]


def change_settings(folder: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes what the first cell of a study says of itself, as another version may have written it."""
    with sqlite3.connect(Path(folder) / "study.db") as connection:
        key, settings = connection.execute("SELECT key, settings FROM cells ORDER BY rowid").fetchone()
        plain = json.loads(settings)
        text = json.dumps(change(plain) or plain)
        connection.execute("UPDATE cells SET settings = ? WHERE key = ?", (text, key))


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.update(colour="red"),
        lambda plain: plain.update(evaluation="many"),
        lambda plain: plain.update(policy="best"),
        lambda plain: plain.pop("policy") and None,
        lambda plain: ["a", "list"],
    ],
    ids=["unknown", "of another type", "of another value", "missing", "no settings"],
)
def test_a_cell_that_this_version_cannot_read_is_one_line(
    study: list[str], tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    run(*study)
    change_settings(study[2], change)
    for command in (["status", study[2]], ["report", study[2], "--out", tmp_path / "out"]):
        line = refused("study", *command)
        assert f"{study[2]}: this study holds a cell that this version of mlx-personal cannot read (" in line
        assert line.endswith("; upgrade mlx-personal, or run a new study in another folder")


def test_cells_that_another_version_computed_otherwise_are_counted_apart(study: list[str]) -> None:
    run(*study)
    change_settings(study[2], lambda plain: plain.update(protocol=0))
    shown = run("study", "status", study[2]).stdout
    assert "7 cells; " in shown
    assert "1 more cell is of another version" in shown
    assert as_json("study", "status", study[2])["outdated"] == 1


def test_a_base_kept_before_it_measured_the_one_answer_is_of_another_version(study: list[str]) -> None:
    run(*study)
    change_settings(study[2], lambda plain: plain.update(protocol=1))
    assert as_json("study", "status", study[2])["outdated"] == 1


# Progress where there is no terminal


def test_a_stage_is_told_as_it_begins_and_ends_and_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seconds = [0.0]
    monkeypatch.setattr(study_progress.time, "monotonic", lambda: seconds[0])
    with study_progress.progress_of_cells(Cli(Home(tmp_path), "default")) as on_progress:
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
    """The status with which scripts/run_selection_study.py ends."""
    path = SCRIPTS / "run_selection_study.py"
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"--streams": "empty"}, "empty: there is no stream in this folder; put some of alpaca.jsonl, dolly.jsonl,"),
        ({"--model": "/nowhere/at/all"}, "no such model folder"),
        ({"--chats": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"--chats": "streams/alpaca.jsonl"}, "alpaca.jsonl: not chats"),
        ({}, "alpaca: 12 dialogues are too few to stream 900"),
    ],
)
def test_what_the_script_cannot_run_is_one_line_and_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    says: str,
) -> None:
    (tmp_path / "streams").mkdir()
    stream(tmp_path / "streams" / "alpaca.jsonl")
    monkeypatch.chdir(tmp_path)
    given = {"--streams": "streams", "--model": "demo", "--study": "study", "--out": "out"} | change
    assert script(*(part for pair in given.items() for part in pair), monkeypatch=monkeypatch) == 2
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert says in line
    assert shown.out == ""
