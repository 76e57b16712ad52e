"""Runs of a small study with the demo's model: what is computed, and what an interruption leaves."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from mlx_personal import Dialogue, UserError, jobs
from mlx_personal.dialogue import rouge1
from mlx_personal.evaluation import choose_constant_answer
from mlx_personal.finetune import LoRAConfig
from mlx_personal.models import LanguageModel
from mlx_personal.progress import ProgressEvent
from mlx_personal.research.study import Cell, StudyDatabase, StudySpec, cell_jobs, run_study, study_scheduler
from mlx_personal.research.study.cell import BASE
from mlx_personal.research.study.checkpoint_data import synthesis_key
from mlx_personal.research.study.grid import CellBlock
from mlx_personal.research.study.study_scheduler import StudyInputs, run_blocks
from mlx_personal.synthesis import SynthesisConfig
from tests.support.study_runs import SAMPLES, InProcessJobs, write_stream

CELL = Cell(
    "alpaca",
    "file",
    "demo",
    "f00",
    0,
    "quality",
    received=6,
    every=3,
    evaluation=3,
    answer_tokens=6,
    bins=2,
    training=LoRAConfig(epochs=1, rank=2, num_layers=1, max_seq_length=64),
    synthesis=SynthesisConfig(k=2),
)
INPUTS = StudyInputs("demo", None, {"alpaca": SAMPLES}, [sample.dialogue for sample in SAMPLES[:2]])
SYNTHETIC_CELL = dataclasses.replace(CELL, synthetic=2)
BLOCKS = [
    CellBlock("one", (dataclasses.replace(CELL, policy=BASE), CELL)),
    CellBlock("two", (dataclasses.replace(CELL, policy="fifo"), SYNTHETIC_CELL)),
]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> InProcessJobs:
    in_process = InProcessJobs()
    monkeypatch.setattr(jobs, "run_jobs", in_process)
    return in_process


@pytest.fixture
def database(tmp_path: Path) -> Iterator[StudyDatabase]:
    with StudyDatabase(tmp_path / "study", write=True) as database:
        yield database


@pytest.mark.slow
def test_an_interrupted_study_continues_and_computes_every_cell_once(
    in_process: InProcessJobs, database: StudyDatabase
) -> None:
    def interrupt(event: ProgressEvent, /) -> None:
        if event.stage == "cells" and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_blocks(database, BLOCKS, INPUTS, on_progress=interrupt)
    assert [database.has_cell(cell) for block in BLOCKS for cell in block.cells] == [True, True, False, False]
    assert in_process.calls == ["embed_texts", "synthesize_dialogues", "run_cell", "run_cell"]

    second = run_blocks(database, BLOCKS, INPUTS)
    assert (second.num_stored, second.num_computed, second.failed, second.skipped) == (2, 2, [], [])
    assert in_process.calls[4:] == ["run_cell", "run_cell"]
    third = run_blocks(database, BLOCKS, INPUTS)
    assert (third.num_stored, third.num_computed) == (4, 0)
    assert len(in_process.calls) == 6

    results = {cell.key: result for cell, result in database.finished_cells()}
    base, plain, _, with_synthetic = [results[cell.key] for block in BLOCKS for cell in block.cells]
    _check_result(base, [0], rows=[0])
    constant = base["checkpoints"][0]["one_answer"]
    assert [len(constant[name]) for name in ("rouge1", "rougeL")] == [3, 3]
    assert all(score > 0 for score in constant["rouge1"])  # all answers of SAMPLES share words
    assert "one_answer" not in plain["checkpoints"][0]
    _check_result(plain, [3, 6], rows=[2, 2])
    num_synthetic = [checkpoint["synthetic"] for checkpoint in with_synthetic["checkpoints"]]
    _check_result(with_synthetic, [3, 6], rows=[2 + n for n in num_synthetic])
    assert sum(num_synthetic) > 0
    assert plain["checkpoints"][0]["questions"] == 2
    # Synthetic dialogues do not change the selection, and training changes the model.
    assert [c["kept"] for c in plain["checkpoints"]] == [c["kept"] for c in with_synthetic["checkpoints"]]
    assert plain["final"]["nats"] != base["final"]["nats"]
    assert plain["final"]["tokens"] == base["final"]["tokens"]


def empty_result(job: cell_jobs.CellJob) -> dict[str, Any]:
    """Replace the training of a cell."""
    return {"checkpoints": []}


def _check_result(result: dict[str, Any], received: list[int], rows: list[int]) -> None:
    assert [c["received"] for c in result["checkpoints"]] == received
    assert [c["rows"] for c in result["checkpoints"]] == rows
    for checkpoint in result["checkpoints"]:
        for name in ("rouge1", "rougeL"):
            assert len(checkpoint[name]) == 3
            assert all(0 <= score <= 1 for score in checkpoint[name])
    assert len(result["final"]["nats"]) == len(result["final"]["tokens"]) == 3
    assert len(result["final"]["general_nats"]) == 2
    assert all(math.isfinite(nats) and nats > 0 for nats in result["final"]["nats"])
    json.dumps(result, allow_nan=False)


def test_scores_are_the_rouge_of_the_answers() -> None:
    scores = cell_jobs._rouge_scores([["Look after it"], ["No"]], [s.dialogue for s in SAMPLES[:2]])
    assert scores["rouge1"] == [round(rouge1("Look after it", SAMPLES[0].dialogue.answer), 6), 0.0]
    assert scores["answer_words"] == 2.0


def test_the_constant_answer_has_the_highest_mean_rouge_and_is_given_at_every_turn() -> None:
    answers = ["you should see a doctor", "see a doctor", "you should rest", "a cat", "you should see someone"]
    best = max(answers, key=lambda a: np.mean([rouge1(a, b) for b in answers if b != a]))
    assert choose_constant_answer(answers, answers) == best == "you should see a doctor"
    # Candidates are compared as truncated.
    assert choose_constant_answer(["a doctor", "you", "", "", ""], answers) == "a doctor"
    assert choose_constant_answer([], []) is None
    # Turns before the last are candidates too.
    pairs = [(answers[2], answers[0]), (answers[0], answers[3]), (answers[4], answers[1])]
    reference = [_dialogue("what now", first, "and then", second) for first, second in pairs]
    evaluation = [_dialogue("it hurts", "rest", "it still does", "see a doctor"), Dialogue.of("may I go", "yes")]
    scores = _constant_answer_scores(cell_jobs.CellJob(CELL, "demo", [], evaluation, [], reference))
    assert scores is not None
    truncated = "see a "  # CELL limits answers to 6 tokens, which are letters here
    assert scores["rouge1"] == [round(rouge1(truncated, "see a doctor") / 2, 6), 0.0]
    assert scores["answer_words"] == 2.0
    longer = dataclasses.replace(CELL, answer_tokens=100)
    scores = _constant_answer_scores(cell_jobs.CellJob(longer, "demo", [], evaluation, [], reference))
    assert scores is not None
    assert scores["rouge1"] == [round(rouge1(best, "see a doctor") / 2, 6), 0.0]
    assert _constant_answer_scores(cell_jobs.CellJob(CELL, "demo", [], evaluation, [])) is None


def _constant_answer_scores(job: cell_jobs.CellJob) -> dict[str, Any] | None:
    return cell_jobs._constant_answer_scores(cast(LanguageModel, _LetterModel()), job)


class _LetterModel:
    """The parts of a language model that split text into letters."""

    @property
    def tokenizer(self) -> _LetterModel:
        return self

    def tokenize(self, text: str) -> list[str]:
        return list(text)

    def decode(self, tokens: Sequence[str]) -> str:
        return "".join(tokens)


def _dialogue(*turns: str) -> Dialogue:
    roles = ("user", "assistant") * (len(turns) // 2)
    return Dialogue.from_messages([{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)])


def test_a_failed_cell_is_reported_and_stops_no_other(in_process: InProcessJobs, database: StudyDatabase) -> None:
    in_process.error_of = lambda job: "it broke" if job.key == CELL.key else None
    result = run_blocks(database, BLOCKS[:1], INPUTS)
    assert result.failed == [(CELL, "it broke")]
    assert result.num_computed == 1
    assert not database.has_cell(CELL)


def test_a_failure_of_a_shared_computation_ends_the_run(in_process: InProcessJobs, database: StudyDatabase) -> None:
    in_process.error_of = lambda job: "no memory" if isinstance(job.argument, cell_jobs.EmbeddingJob) else None
    with pytest.raises(UserError, match=r"embedding failed: no memory"):
        run_blocks(database, BLOCKS, INPUTS)


@pytest.mark.slow
def test_synthetic_dialogues_do_not_depend_on_other_cells(
    in_process: InProcessJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell has the same synthetic dialogues if it runs alone, after other cells, or together with them."""

    def training_keys(job: cell_jobs.CellJob) -> dict[str, Any]:
        return {"keys": [[example.dialogue.key for example in data.examples] for data in job.checkpoints]}

    monkeypatch.setattr(cell_jobs, "run_cell", training_keys)
    cells = [dataclasses.replace(SYNTHETIC_CELL, policy=policy) for policy in ("quality", "fifo")]
    results = []
    for number, order in enumerate(([cells], [cells[:1], cells[1:]], [cells[1:], cells[:1]])):
        with StudyDatabase(tmp_path / str(number), write=True) as database:
            for group in order:
                run_blocks(database, [CellBlock("some", tuple(group))], INPUTS)
            finished = {cell.policy: result["keys"] for cell, result in database.finished_cells()}
            results.append([finished[cell.policy] for cell in cells])
    assert results[0] == results[1] == results[2]
    assert max(len(keys) for keys in results[0][0]) > CELL.bins


def test_a_time_limit_skips_and_names_whole_blocks(
    in_process: InProcessJobs, database: StudyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: in_process.now)
    monkeypatch.setattr(cell_jobs, "run_cell", empty_result)
    in_process.duration_of = lambda job: 10.0
    three = [dataclasses.replace(CELL, seed=seed) for seed in range(3)]
    blocks = [CellBlock(f"seed {cell.seed}", (cell,)) for cell in three]
    # The first block takes 20 s with its embeddings. The second one is expected to take as long; then 15 s remain.
    result = run_blocks(database, blocks, INPUTS, time_limit_s=45.0)
    assert result.num_computed == 2
    assert [block.name for block in result.skipped] == ["seed 2"]
    # A skipped block is not prepared either. A later run computes it.
    assert in_process.calls == ["embed_texts", "empty_result", "embed_texts", "empty_result"]
    assert run_blocks(database, blocks, INPUTS, time_limit_s=1.0).num_computed == 1


def test_too_few_dialogues_are_an_error_before_anything_is_computed(
    in_process: InProcessJobs, database: StudyDatabase
) -> None:
    with pytest.raises(UserError, match=r"alpaca: .* too few to stream 99"):
        run_blocks(database, [CellBlock("big", (dataclasses.replace(CELL, received=99),))], INPUTS)
    assert in_process.calls == []


# From a specification to cells, and the folder


def study_spec(tmp_path: Path, experiments: Sequence[str] = ("entropy",), synthetic: int = 3) -> StudySpec:
    sizes = {name: getattr(CELL, name) for name in ("received", "every", "evaluation", "answer_tokens", "bins")}
    return StudySpec(
        model="demo",
        data={"alpaca": write_stream(tmp_path / "alpaca.jsonl")},
        experiments=experiments,
        num_seeds=1,
        synthetic=synthetic,
        cell_settings=sizes,
    )


def test_a_cells_key_depends_on_the_model_and_the_file(
    in_process: InProcessJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_jobs, "run_cell", empty_result)
    spec = study_spec(tmp_path)
    assert run_study(tmp_path / "study", spec).num_computed == 7  # two policies, three estimators, and the base
    assert run_study(tmp_path / "study", spec).num_computed == 0
    longer = dataclasses.replace(spec, training_settings={"epochs": 9})
    assert run_study(tmp_path / "study", longer).num_computed == 6  # the base is not trained
    with (tmp_path / "alpaca.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]}\n')
    assert run_study(tmp_path / "study", spec).num_computed == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experiments": ["everything"]}, "no experiment 'everything'"),
        ({"cell_settings": {"bins": 0}}, "bins is 0"),
        ({"training_settings": {"epochs": 0}}, "epochs is 0"),
        ({"data": {"alpaca": Path("nowhere.jsonl")}}, "no such file"),
        ({"data": {"imdb": None}}, "no data set is called 'imdb'"),
        ({"model": "/nowhere/at/all"}, "no such model folder"),
        ({"writer": Path("nowhere")}, "nowhere: there is no adapter"),
        ({"general": Path("nowhere.jsonl")}, "nowhere.jsonl"),
    ],
)
def test_an_invalid_specification_gives_a_one_line_error(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        run_study(tmp_path / "study", dataclasses.replace(study_spec(tmp_path), **change))
    assert "\n" not in raised.value.line()


def test_only_one_process_writes_to_a_study(database: StudyDatabase, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this study is in use by another process"):
        StudyDatabase(tmp_path / "study", write=True)


def test_a_folder_without_a_study_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no study here"):
        StudyDatabase(tmp_path)


@pytest.mark.slow
def test_worker_processes_give_the_same_results_as_this_process(
    tmp_path: Path, in_process: InProcessJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = study_spec(tmp_path, experiments=["main"], synthetic=1)
    run_study(tmp_path / "in_process", spec)
    monkeypatch.undo()
    result = run_study(tmp_path / "workers", spec, workers=2)
    assert (result.num_computed, result.failed) == (9, [])

    def losses(folder: Path) -> dict[str, list[float]]:
        with StudyDatabase(folder) as database:
            return {cell.key: result["final"]["nats"] for cell, result in database.finished_cells()}

    assert losses(tmp_path / "workers") == losses(tmp_path / "in_process")


# A study that version 0.1 wrote

FIXTURE = Path(__file__).parents[2] / "fixtures" / "v0_1" / "study"


def test_cells_of_version_0_1_are_found_again(in_process: InProcessJobs, tmp_path: Path) -> None:
    """Check that no cell is computed again.

    The fixture was written by `mlx-personal study run` with `--model demo --data alpaca=alpaca.jsonl --received 6
    --every 3 --evaluation 3 --bins 2 --seeds 1 --synthetic 1 --epochs 1 --answer-tokens 8 --experiment main
    --workers 1`.
    """
    (tmp_path / "study").mkdir()
    shutil.copy(FIXTURE / "study.db", tmp_path / "study")
    spec = StudySpec(
        model="demo",
        data={"alpaca": FIXTURE / "alpaca.jsonl"},
        experiments=["main"],
        num_seeds=1,
        synthetic=1,
        cell_settings={"received": 6, "every": 3, "evaluation": 3, "bins": 2, "answer_tokens": 8},
        training_settings={"epochs": 1},
    )
    result = run_study(tmp_path / "study", spec, workers=1)
    assert (result.num_stored, result.num_computed, result.failed, result.skipped) == (9, 0, [], [])
    assert in_process.calls == []
    with StudyDatabase(tmp_path / "study") as database:
        finished = database.finished_cells()
        stored = {
            row["key"]: json.loads(row["settings"])
            for row in database.database.fetch_all("SELECT key, settings FROM cells")
        }
        # Shared results are found too: their keys have not changed.
        rows = database.database.fetch_all("SELECT DISTINCT made_by FROM embeddings")
        assert [row["made_by"] for row in rows] == [study_scheduler.embedding_key(finished[0][0].model)]
        (row,) = database.database.fetch_all("SELECT DISTINCT made_by FROM synthetic")
        synthetic_cell = next(cell for cell, _ in finished if cell.synthetic)
        assert row["made_by"] == synthesis_key(synthetic_cell)
        assert database.synthetic_dialogues(row["made_by"])
    assert {cell.key: cell.to_json() for cell, _ in finished} == stored
    assert len(finished) == 9
