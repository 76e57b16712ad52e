"""A study's run, with the embedded model and a dozen dialogues: what is computed, once, and what a kill leaves."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_personal import Dialogue, UserError, jobs
from mlx_personal.dialogue import rouge1
from mlx_personal.finetune import LoRAConfig
from mlx_personal.research.study import Cell, Records, Request, cell_jobs, run_study
from mlx_personal.research.study import scheduler as running
from mlx_personal.research.study.cell import BASE
from mlx_personal.research.study.constant_answer import one_answer
from mlx_personal.research.study.grid import Block
from mlx_personal.research.study.scheduler import Inputs
from mlx_personal.research.study.schemas import Sample
from mlx_personal.synthesis import SynthesisConfig

THINGS = ("kettle", "spaniel", "bicycle", "curtain", "lantern", "orchard")
THINGS += ("tournament", "recipe", "ladder", "violin", "harbor", "blanket")
SAMPLES = [
    Sample(Dialogue.of(f"What should I do about my {thing} number {i}?", f"Look after the {thing}, slowly."), None)
    for i, thing in enumerate(THINGS)
]
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
    training=LoRAConfig(epochs=1, rank=2, num_layers=1, max_tokens=64),
    synthesis=SynthesisConfig(k=2),
)
INPUTS = Inputs("demo", None, {"alpaca": SAMPLES}, [sample.dialogue for sample in SAMPLES[:2]])
WITH_SETS = dataclasses.replace(CELL, synthetic=2)
BLOCKS = [
    Block("one", (dataclasses.replace(CELL, policy=BASE), CELL)),
    Block("two", (dataclasses.replace(CELL, policy="fifo"), WITH_SETS)),
]


class Here:
    """`cluster.run` in this process; counts the jobs by function, lets some fail, and has a clock of its own."""

    def __init__(self) -> None:
        self.calls = []
        self.fails = lambda job: None
        self.now, self.takes = 0.0, lambda job: 0.0

    def __call__(self, function: Any, work: Any, workers: Any = None, ray: Any = None) -> Iterator[Any]:
        for job in work:
            self.calls.append(function.__name__)
            self.now += self.takes(job)
            error = self.fails(job)
            yield jobs.JobResult(job.key, None if error else function(job.argument), error, 1.0)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Any:
    here = Here()
    monkeypatch.setattr(jobs, "run", here)
    return here


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Any]:
    with Records(tmp_path / "study", write=True) as found:
        yield found


def test_a_study_is_computed_once_and_goes_on_after_a_stop(here: Any, records: Any) -> None:
    stopped = []

    def stop(progress: Any) -> None:
        if progress.stage == "cells" and progress.done == 2:
            stopped.append(progress)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        running.run(records, BLOCKS, INPUTS, on_progress=stop)
    assert [records.has(cell) for block in BLOCKS for cell in block.cells] == [True, True, False, False]
    assert here.calls == ["embed", "write", "run", "run"]

    outcome = running.run(records, BLOCKS, INPUTS)
    assert (outcome.found, outcome.ran, outcome.failed, outcome.left_out) == (2, 2, [], [])
    assert here.calls[4:] == ["run", "run"]
    again = running.run(records, BLOCKS, INPUTS)
    assert (again.found, again.ran) == (4, 0)
    assert len(here.calls) == 6

    results = {cell.key: result for cell, result in records.finished()}
    base, plain, _, full = [results[cell.key] for block in BLOCKS for cell in block.cells]
    _is_whole(base, [0], rows=[0])
    one = base["checkpoints"][0]["one_answer"]
    assert [len(one[name]) for name in ("rouge1", "rougeL")] == [3, 3]
    assert all(score > 0 for score in one["rouge1"])  # all answers of SAMPLES share words
    assert "one_answer" not in plain["checkpoints"][0]
    _is_whole(plain, [3, 6], rows=[2, 2])
    written = [checkpoint["synthetic"] for checkpoint in full["checkpoints"]]
    _is_whole(full, [3, 6], rows=[2 + n for n in written])
    assert sum(written) > 0
    assert plain["checkpoints"][0]["questions"] == 2
    # What both learn from is the same; what they learn is not.
    assert [c["kept"] for c in plain["checkpoints"]] == [c["kept"] for c in full["checkpoints"]]
    assert plain["final"]["nats"] != base["final"]["nats"]
    assert plain["final"]["tokens"] == base["final"]["tokens"]


def nothing(job: Any) -> Any:
    """In place of a cell's training."""
    return {"checkpoints": []}


def _is_whole(result: Any, received: Any, rows: Any) -> None:
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


def test_scores_are_rouge_of_the_answers() -> None:
    found = cell_jobs._scores([["Look after it"], ["No"]], [s.dialogue for s in SAMPLES[:2]])
    assert found["rouge1"] == [round(rouge1("Look after it", SAMPLES[0].dialogue.answer), 6), 0.0]
    assert found["answer_words"] == 2.0


def test_the_one_answer_is_the_one_that_is_most_like_all_others_and_is_given_to_every_turn() -> None:
    said = ["you should see a doctor", "see a doctor", "you should rest", "a cat", "you should see someone"]
    nearest = max(said, key=lambda a: np.mean([rouge1(a, b) for b in said if b != a]))
    assert one_answer(said, said) == nearest == "you should see a doctor"
    assert one_answer(["a doctor", "you", "", "", ""], said) == "a doctor"  # what is cut is scored as it is cut
    assert one_answer([], []) is None
    # Turns before the last are candidates too.
    talks = [(said[2], said[0]), (said[0], said[3]), (said[4], said[1])]
    others = [_talk("what now", first, "and then", then) for first, then in talks]
    asked = [_talk("it hurts", "rest", "it still does", "see a doctor"), Dialogue.of("may I go", "yes")]
    found = cell_jobs._one_answer(_Letters(), cell_jobs.Run(CELL, "demo", [], asked, [], others))
    given = "see a "  # CELL's answers are of at most 6 tokens, which are letters here
    assert found["rouge1"] == [round(rouge1(given, "see a doctor") / 2, 6), 0.0]
    assert found["answer_words"] == 2.0
    longer = dataclasses.replace(CELL, answer_tokens=100)
    found = cell_jobs._one_answer(_Letters(), cell_jobs.Run(longer, "demo", [], asked, [], others))
    assert found["rouge1"] == [round(rouge1(nearest, "see a doctor") / 2, 6), 0.0]
    assert cell_jobs._one_answer(_Letters(), cell_jobs.Run(CELL, "demo", [], asked, [])) is None


class _Letters:
    """A model's tokenizer that cuts text into letters."""

    tokenizer = property(lambda self: self)

    def text_tokens(self, text: Any) -> Any:
        return list(text)

    def decode(self, tokens: Any) -> Any:
        return "".join(tokens)


def _talk(*turns: Any) -> Any:
    roles = ("user", "assistant") * (len(turns) // 2)
    return Dialogue.from_messages([{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)])


def test_a_cell_that_fails_is_told_and_stops_no_other(here: Any, records: Any) -> None:
    here.fails = lambda job: "it broke" if job.key == CELL.key else None
    outcome = running.run(records, BLOCKS[:1], INPUTS)
    assert outcome.failed == [(CELL, "it broke")]
    assert outcome.ran == 1
    assert not records.has(CELL)


def test_what_all_cells_need_must_not_fail(here: Any, records: Any) -> None:
    here.fails = lambda job: "no memory" if isinstance(job.argument, cell_jobs.Embed) else None
    with pytest.raises(UserError, match=r"embedding failed: no memory"):
        running.run(records, BLOCKS, INPUTS)


def test_what_is_written_does_not_hang_on_what_ran_before(
    here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same cell has the same synthetic sets, alone, after others, and in one run with them."""

    def learnt(job: Any) -> Any:
        return {"learnt": [[dialogue.key for dialogue in lesson.dialogues] for lesson in job.lessons]}

    monkeypatch.setattr(cell_jobs, "run", learnt)
    cells = [dataclasses.replace(WITH_SETS, policy=policy) for policy in ("quality", "fifo")]
    results = []
    for number, order in enumerate(([cells], [cells[:1], cells[1:]], [cells[1:], cells[:1]])):
        with Records(tmp_path / str(number), write=True) as records:
            for some in order:
                running.run(records, [Block("some", tuple(some))], INPUTS)
            finished = {cell.policy: result["learnt"] for cell, result in records.finished()}
            results.append([finished[cell.policy] for cell in cells])
    assert results[0] == results[1] == results[2]
    assert max(len(lesson) for lesson in results[0][0]) > CELL.bins


def test_a_budget_takes_whole_blocks_and_names_the_others(
    here: Any, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.time, "perf_counter", lambda: here.now)
    monkeypatch.setattr(cell_jobs, "run", nothing)
    here.takes = lambda job: 10.0
    three = [dataclasses.replace(CELL, seed=seed) for seed in range(3)]
    blocks = [Block(f"seed {cell.seed}", (cell,)) for cell in three]
    # The first takes 20 s with its vectors; the second is expected to take as long; then there are 15 s left.
    outcome = running.run(records, blocks, INPUTS, budget=45.0)
    assert outcome.ran == 2
    assert [block.name for block in outcome.left_out] == ["seed 2"]
    # What was left out was not prepared either; with more time it is all that is run.
    assert here.calls == ["embed", "nothing", "embed", "nothing"]
    assert running.run(records, blocks, INPUTS, budget=1.0).ran == 1


def test_too_few_dialogues_are_an_error_before_anything_is_computed(here: Any, records: Any) -> None:
    with pytest.raises(UserError, match=r"alpaca: .* too few to stream 99"):
        running.run(records, [Block("big", (dataclasses.replace(CELL, received=99),))], INPUTS)
    assert here.calls == []


# From a request to cells, and the folder


def stream(path: Path) -> Path:
    lines = [json.dumps({"messages": sample.dialogue.to_messages()}) for sample in SAMPLES]
    path.write_text("\n".join(lines) + "\n")
    return path


def request(tmp_path: Path, **changes: Any) -> Any:
    sizes = {name: getattr(CELL, name) for name in ("received", "every", "evaluation", "answer_tokens", "bins")}
    given = {"data": {"alpaca": stream(tmp_path / "alpaca.jsonl")}, "experiments": ["entropy"], "seeds": 1}
    return Request(model="demo", sizes=sizes, **{**given, **changes})


def test_a_request_becomes_cells_whose_key_knows_model_and_file(
    here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_jobs, "run", nothing)
    asked = request(tmp_path)
    assert run_study(tmp_path / "study", asked).ran == 7  # two policies, three estimators, and the base
    assert run_study(tmp_path / "study", asked).ran == 0
    longer = dataclasses.replace(asked, training={"epochs": 9})
    assert run_study(tmp_path / "study", longer).ran == 6  # the base learns nothing
    with (tmp_path / "alpaca.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]}\n')
    assert run_study(tmp_path / "study", asked).ran == 7


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"experiments": ["everything"]}, "no experiment 'everything'"),
        ({"sizes": {"bins": 0}}, "bins is 0"),
        ({"training": {"epochs": 0}}, "epochs is 0"),
        ({"data": {"alpaca": Path("nowhere.jsonl")}}, "no such file"),
        ({"data": {"imdb": None}}, "no data set is called 'imdb'"),
        ({"model": "/nowhere/at/all"}, "no such model folder"),
        ({"writer": Path("nowhere")}, "nowhere: there is no adapter"),
        ({"general": Path("nowhere.jsonl")}, "nowhere.jsonl"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(tmp_path: Path, change: Any, says: str) -> None:
    with pytest.raises(UserError, match=says) as raised:
        run_study(tmp_path / "study", dataclasses.replace(request(tmp_path), **change))
    assert "\n" not in raised.value.line()


def test_one_study_has_one_writer(records: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this study is in use by another process"):
        Records(tmp_path / "study", write=True)


def test_a_folder_without_a_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no study here"):
        Records(tmp_path)


@pytest.mark.slow
def test_a_study_through_worker_processes_gives_what_it_gives_here(
    tmp_path: Path, here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(tmp_path, experiments=["main"], synthetic=1)
    run_study(tmp_path / "here", asked)
    monkeypatch.undo()
    outcome = run_study(tmp_path / "workers", asked, workers=2)
    assert (outcome.ran, outcome.failed) == (9, [])

    def scores(folder: Any) -> Any:
        with Records(folder) as found:
            return {c.key: r["final"]["nats"] for c, r in found.finished()}

    assert scores(tmp_path / "workers") == scores(tmp_path / "here")
