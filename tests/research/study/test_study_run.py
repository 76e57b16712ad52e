"""Runs of a small study with the demo's model: what is computed, and what an interruption leaves."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import UserError, jobs
from mlx_personal.finetune import LoRAConfig
from mlx_personal.progress import ProgressEvent
from mlx_personal.research.answer_metrics import ANSWER_METRICS, METRICS
from mlx_personal.research.study import Cell, StudyFolder, StudySpec, cell_jobs, run_study
from mlx_personal.research.study.cell import BASE
from mlx_personal.research.study.grid import CellBlock
from mlx_personal.research.study.profile_run import ADAPTER, BOTH, MEMORY, MODES
from mlx_personal.research.study.study_scheduler import StudyInputs, run_blocks
from tests.support.study_runs import SAMPLES, InProcessJobs, write_stream

CELL = Cell(
    "alpaca",
    "file",
    "demo",
    "f00",
    0,
    "quality",
    received=8,
    evaluation=3,
    answer_tokens=6,
    choices=2,
    bins=6,
    examples=1,
    training=LoRAConfig(epochs=1, rank=2, num_layers=1, max_seq_length=64),
)
INPUTS = StudyInputs("demo", {"alpaca": SAMPLES})
BLOCKS = [
    CellBlock("one", (dataclasses.replace(CELL, policy=BASE), CELL)),
    CellBlock("two", (dataclasses.replace(CELL, policy="fifo"), dataclasses.replace(CELL, synthetic=1))),
]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> InProcessJobs:
    in_process = InProcessJobs()
    monkeypatch.setattr(jobs, "run_jobs", in_process)
    return in_process


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study")


def empty_result(job: cell_jobs.CellJob) -> dict[str, Any]:
    """Replace the training of a cell."""
    return {"kept": [dialogue.question for dialogue in job.kept]}


@pytest.mark.slow
def test_an_interrupted_study_continues_and_computes_every_cell_once(
    in_process: InProcessJobs, folder: StudyFolder
) -> None:
    def interrupt(event: ProgressEvent, /) -> None:
        if event.stage == "cells" and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_blocks(folder, BLOCKS, INPUTS, on_progress=interrupt)
    assert [cell.key in folder.finished_keys() for block in BLOCKS for cell in block.cells] == [
        True,
        True,
        False,
        False,
    ]
    assert in_process.calls == ["embed_texts", "run_cell", "run_cell"]

    second = run_blocks(folder, BLOCKS, INPUTS)
    assert (second.num_stored, second.num_computed, second.failed, second.skipped) == (2, 2, [], [])
    assert in_process.calls[3:] == ["run_cell", "run_cell"]
    assert run_blocks(folder, BLOCKS, INPUTS).num_computed == 0

    results = {cell.key: result for cell, result in folder.finished_cells()}
    base, plain, _, with_synthetic = [results[cell.key] for block in BLOCKS for cell in block.cells]
    assert set(base["modes"]) == {BASE} and set(base["one_answer"]) == set(ANSWER_METRICS)
    for result in (plain, with_synthetic):
        assert set(result["modes"]) == {MEMORY, ADAPTER, BOTH}
        assert result["default"] in MODES and result["trained"] + result["held_out"] == 6
    assert plain["synthetic"] == 0 <= with_synthetic["synthetic"] <= with_synthetic["trained"]
    for values in [*base["modes"].values(), *plain["modes"].values()]:
        assert set(values) == set(METRICS) and {len(values[name]) for name in ANSWER_METRICS} == {3}
    # An adapter and examples change the likelihoods.
    likelihoods = [tuple(v["log_likelihood"]) for v in [*base["modes"].values(), *plain["modes"].values()]]
    assert len(set(likelihoods)) == 4


def test_a_failed_cell_is_reported_and_stops_no_other(
    in_process: InProcessJobs, folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_jobs, "run_cell", empty_result)
    in_process.error_of = lambda job: "it broke" if job.key == CELL.key else None
    result = run_blocks(folder, BLOCKS[:1], INPUTS)
    assert (result.failed, result.num_computed) == ([(CELL, "it broke")], 1)
    assert CELL.key not in folder.finished_keys()


def test_a_failure_of_a_shared_computation_ends_the_run(in_process: InProcessJobs, folder: StudyFolder) -> None:
    in_process.error_of = lambda job: "no memory" if isinstance(job.argument, cell_jobs.EmbeddingJob) else None
    with pytest.raises(UserError, match=r"embedding failed: no memory"):
        run_blocks(folder, BLOCKS, INPUTS)


def test_a_time_limit_skips_and_names_whole_blocks(
    in_process: InProcessJobs, folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: in_process.now)
    monkeypatch.setattr(cell_jobs, "run_cell", empty_result)
    in_process.duration_of = lambda job: 10.0
    blocks = [CellBlock(f"seed {seed}", (dataclasses.replace(CELL, seed=seed),)) for seed in range(3)]
    # The first block takes 20 s with its embeddings, and the second one 10 to 20 s; then less than 20 s remain.
    result = run_blocks(folder, blocks, INPUTS, time_limit_s=45.0)
    assert (result.num_computed, [block.name for block in result.skipped]) == (2, ["seed 2"])
    # A later run computes it.
    assert run_blocks(folder, blocks, INPUTS, time_limit_s=1.0).num_computed == 1


def test_policies_get_the_same_stream_and_the_base_model_none(
    in_process: InProcessJobs, folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_jobs, "run_cell", empty_result)
    whole = [dataclasses.replace(CELL, policy=policy, bins=99) for policy in (BASE, "quality", "random")]
    run_blocks(folder, [CellBlock("all", tuple(whole))], INPUTS)
    kept = {cell.policy: result["kept"] for cell, result in folder.finished_cells()}
    assert kept[BASE] == [] and len(kept["quality"]) == 8 and kept["quality"] == kept["random"]


def test_too_few_dialogues_are_an_error_before_anything_is_computed(
    in_process: InProcessJobs, folder: StudyFolder
) -> None:
    with pytest.raises(UserError, match=r"alpaca: .* too few to evaluate on 12"):
        run_blocks(folder, [CellBlock("big", (dataclasses.replace(CELL, evaluation=12),))], INPUTS)
    assert in_process.calls == []


# From a specification to cells


def study_spec(tmp_path: Path, experiments: Sequence[str] = ("main",)) -> StudySpec:
    sizes = {name: getattr(CELL, name) for name in ("received", "evaluation", "answer_tokens", "bins", "choices")}
    data: dict[str, Path | None] = {"alpaca": write_stream(tmp_path / "alpaca.jsonl")}
    return StudySpec(model="demo", data=data, experiments=experiments, num_seeds=1, cell_settings=sizes)


def test_a_cells_key_depends_on_the_model_and_the_file(
    in_process: InProcessJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_jobs, "run_cell", empty_result)
    spec, study = study_spec(tmp_path), tmp_path / "study"
    count = run_study(study, spec).num_computed
    assert run_study(study, spec).num_computed == 0
    longer = dataclasses.replace(spec, training_settings={"epochs": 9})
    assert run_study(study, longer).num_computed == count - 1  # the base model is not trained
    with (tmp_path / "alpaca.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]}\n')
    assert run_study(study, spec).num_computed == count


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experiments": ["everything"]}, "no experiment 'everything'"),
        ({"cell_settings": {"bins": 0}}, "bins is 0"),
        ({"training_settings": {"epochs": 0}}, "epochs is 0"),
        ({"data": {"alpaca": Path("nowhere.jsonl")}}, "no such file"),
        ({"data": {"imdb": None}}, "no data set is called 'imdb'"),
        ({"model": "/nowhere/at/all"}, "no such model folder"),
    ],
)
def test_an_invalid_specification_gives_a_one_line_error(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        run_study(tmp_path / "study", dataclasses.replace(study_spec(tmp_path), **change))
    assert "\n" not in raised.value.line()


@pytest.mark.slow
def test_worker_processes_give_the_same_results_as_this_process(
    tmp_path: Path, in_process: InProcessJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = dataclasses.replace(study_spec(tmp_path), training_settings={"epochs": 1, "rank": 2})
    run_study(tmp_path / "in_process", spec)
    monkeypatch.undo()
    result = run_study(tmp_path / "workers", spec, workers=2)
    assert result.num_computed > 0 and not result.failed

    def modes(name: str) -> dict[str, Any]:
        return {cell.key: result["modes"] for cell, result in StudyFolder(tmp_path / name).finished_cells()}

    assert modes("workers") == modes("in_process")
    json.dumps(modes("workers"), allow_nan=False)
