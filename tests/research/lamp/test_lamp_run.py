"""LaMP runs without a server: results are computed once and never lost, and no user's data reach another user."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import LanguageModel
from mlx_personal.errors import StorageError, UserError
from mlx_personal.jobs import Job
from mlx_personal.progress import ProgressEvent
from mlx_personal.research.lamp import run_lamp
from mlx_personal.research.lamp.lamp_folder import LampFolder
from mlx_personal.research.lamp.lamp_report import write_report
from mlx_personal.research.lamp.lamp_results import Count
from mlx_personal.research.lamp.metrics import pair_statistics
from mlx_personal.research.lamp.predictions import read_outputs
from mlx_personal.research.lamp.tasks import TASKS
from tests.research.lamp.conftest import TrainedAdapter
from tests.support.augmentation import CONFIG, InProcessJobs
from tests.support.cases import quick_cases
from tests.support.lamp_users import SHORT_RUN, edit_json, lamp_spec, run_and_read, write_lamp_files

METHODS = [
    *("non-personalized", "majority", "random:1", "recency:2", "bm25:1", "profile", "oppu", "oppu+bm25:1"),
    *("cdcda", "cdcda-no-copy", "cdcda+recency:1"),
]
ADAPTER_METHODS = {"oppu", "oppu+bm25:1", "cdcda", "cdcda-no-copy", "cdcda+recency:1"}


@pytest.fixture(autouse=True)
def without_processes(in_process_jobs: InProcessJobs) -> None:
    """No test here starts worker processes."""


@pytest.mark.slow
def test_every_method_answers_every_query_and_a_second_run_computes_nothing(
    tmp_path: Path, world: Path, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    spec = lamp_spec(world, tiny_model_folder, *METHODS, num_users=2)
    events: list[ProgressEvent] = []
    result = run_lamp(tmp_path / "run", spec, on_progress=events.append)
    assert (result.num_stored, result.num_computed, result.num_unanswered, result.message) == (0, 22, 0, None)
    assert not result.failed
    assert (result.counts.users, result.counts.queries, result.counts.items) == (2, 4, 8)
    assert (events[0].stage, events[0].done, events[0].total) == ("users", 0, 2)
    assert (events[-1].done, events[-1].remaining_s) == (2, 0.0)
    assert spec.outputs is not None
    golds = read_outputs(TASKS["3"], spec.outputs).by_id
    folder = LampFolder(tmp_path / "run")
    predictions, results = folder.predictions(result.setting), folder.settings[result.setting].results
    assert list(results) == METHODS
    for method, of_method in results.items():
        assert list(of_method) == [0, 1]
        for user, of_user in of_method.items():
            is_trained, texts = method in ADAPTER_METHODS, predictions[method][user]
            scores = pair_statistics(TASKS["3"], list(texts.values()), [golds[query] for query in texts])
            assert list(of_user.sums) == scores.sum(axis=0).tolist() and of_user.num_queries == len(texts) == 2
            assert (of_user.train_s > 0) == is_trained == (of_user.training_samples >= 4)
            assert (of_user.adapter_bytes or 0) > 0 or not is_trained
            assert of_user.answer_s is not None and of_user.answer_s > 0
            assert (of_user.tokens_read or 0) > 0 or method == "majority"
    in_process_jobs.done.clear()
    again = run_lamp(tmp_path / "run", spec)
    assert (again.num_stored, again.num_computed, again.setting) == (22, 0, result.setting)
    assert not in_process_jobs.done


def test_predictions_have_the_form_of_the_benchmark(tmp_path: Path, world: Path, tiny_model_folder: Path) -> None:
    spec = lamp_spec(world, tiny_model_folder, "non-personalized", "bm25:1")
    results = run_and_read(tmp_path / "run", spec)
    assert spec.outputs is not None
    golds = read_outputs(TASKS["3"], spec.outputs)
    for method, name in (("non-personalized", "non-personalized"), ("bm25:1", "bm25-1")):
        written = read_outputs(TASKS["3"], tmp_path / "run" / "predictions" / f"{name}.json")
        assert written.task_name == golds.task_name and written.by_id.keys() == golds.by_id.keys()
        of_method = [result.predictions for (_, name), result in results.items() if name == method]
        assert dict(written.by_id) == {key: text for predictions in of_method for key, text in predictions.items()}


@pytest.mark.parametrize("task", quick_cases(TASKS, "1", "5"))
def test_every_task_runs(tmp_path: Path, task: str, tiny_model_folder: Path) -> None:
    world = write_lamp_files(tmp_path / "world", task, users=1, records=3, queries=1)
    results = run_and_read(tmp_path / "run", lamp_spec(world, tiny_model_folder, "bm25:1", "cdcda+bm25:1", task=task))
    assert [len(result.predictions) for result in results.values()] == [1, 1]


def test_only_added_methods_and_users_are_computed(
    tmp_path: Path, world: Path, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    first = lamp_spec(world, tiny_model_folder, "non-personalized", num_users=2)
    assert run_lamp(tmp_path / "run", first).num_computed == 2
    more_methods = run_lamp(tmp_path / "run", dataclasses.replace(first, methods=["non-personalized", "bm25"]))
    assert (more_methods.num_stored, more_methods.num_computed) == (2, 2)
    in_process_jobs.done.clear()
    all_users = dataclasses.replace(first, methods=["bm25", "non-personalized"], num_users=None)
    more_users = run_lamp(tmp_path / "run", all_users)
    assert (more_users.num_stored, more_users.num_computed) == (4, 2)
    assert in_process_jobs.done == [("run_methods", "2")]


@pytest.mark.parametrize(
    "change",
    [
        {"choose_label": True},
        {"seed": 1},
        {"max_length": 300},
        {"augment": dataclasses.replace(CONFIG, synthetic_weight=0.1)},
    ],
)
def test_results_of_different_settings_are_kept_apart(
    tmp_path: Path, world: Path, tiny_model_folder: Path, change: dict[str, Any]
) -> None:
    spec = lamp_spec(world, tiny_model_folder, "non-personalized", num_users=1)
    first = run_lamp(tmp_path / "run", spec)
    other = run_lamp(tmp_path / "run", dataclasses.replace(spec, config=dataclasses.replace(SHORT_RUN, **change)))
    assert first.num_computed == other.num_computed == 1 and first.setting != other.setting


def test_results_of_different_files_are_kept_apart(tmp_path: Path, world: Path, tiny_model_folder: Path) -> None:
    """The other file has the same user names with other records, and one more user."""
    other_world = write_lamp_files(tmp_path / "other", users=4, records=2)
    first, second = (lamp_spec(folder, tiny_model_folder, "bm25:1") for folder in (world, other_world))
    run, predictions = tmp_path / "run", tmp_path / "run" / "predictions" / "bm25-1.json"
    results, written = run_and_read(run, first), predictions.read_text()
    assert len(run_and_read(run, second)) == 4
    assert run_and_read(run, first) == results and predictions.read_text() == written and len(results) == 3


@pytest.mark.slow
def test_a_failed_job_stops_no_other_user(
    tmp_path: Path, world: Path, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    spec = lamp_spec(world, tiny_model_folder, "non-personalized", "oppu")
    in_process_jobs.fails = lambda function, job: "out of memory" if job.key == "1" else None
    result = run_lamp(tmp_path / "run", spec)
    assert result.failed == [("user-1-1", "out of memory")] and result.num_computed == 4
    in_process_jobs.fails = lambda function, job: None
    again = run_lamp(tmp_path / "run", spec)
    assert (again.num_stored, again.num_computed, again.failed) == (4, 2, [])


def test_a_full_disk_ends_the_run_and_keeps_what_is_stored(
    tmp_path: Path, world: Path, in_process_jobs: InProcessJobs, tiny_model_folder: Path
) -> None:
    spec = lamp_spec(world, tiny_model_folder, "non-personalized")

    def fail(function: object, job: Job) -> str | None:
        if job.key == "1":
            raise StorageError("the disk is full", tmp_path)
        return None

    in_process_jobs.fails = fail
    with pytest.raises(StorageError, match="the disk is full"):
        run_lamp(tmp_path / "run", spec)
    in_process_jobs.fails = lambda function, job: None
    again = run_lamp(tmp_path / "run", spec)
    assert (again.num_stored, again.num_computed, again.failed) == (1, 2, [])


def test_a_killed_run_continues(tmp_path: Path, world: Path, tiny_model_folder: Path) -> None:
    spec = lamp_spec(world, tiny_model_folder, "non-personalized")

    def interrupt(event: ProgressEvent, /) -> None:
        if event.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_lamp(tmp_path / "run", spec, on_progress=interrupt)
    again = run_lamp(tmp_path / "run", spec)
    assert (again.num_stored, again.num_computed) == (1, 2)


def test_the_base_model_answers_for_a_user_without_items(tmp_path: Path, world: Path, tiny_model_folder: Path) -> None:
    for part in ("questions", "history"):
        path = world / f"LaMP_3_{part}.json"
        edit_json(path, lambda users: [{**user, "profile": []} for user in users])
    results = run_and_read(tmp_path / "run", lamp_spec(world, tiny_model_folder, *METHODS, num_users=1))
    base = results[0, "non-personalized"].predictions
    assert all(answers.predictions == base for (_, method), answers in results.items() if method != "majority")
    for (_, method), answers in results.items():
        result = answers.result
        assert (result.counts.get(Count.NO_TRAINING, 0) == 1) == (method in ADAPTER_METHODS)
        if ":" in method or method == "majority":
            assert result.counts[Count.NO_ITEMS] == 2
        assert (result.counts.get(Count.NO_SUMMARY) == 2) == (method == "profile")
        assert result.adapter_bytes is None and result.training_samples == 0
    # Without items and without a model there is nothing to answer.
    assert set(results[0, "majority"].predictions.values()) == {""}
    assert results[0, "majority"].result.counts[Count.EMPTY_ANSWERS] == 2


def test_the_majority_is_the_most_frequent_label_and_of_several_the_newest(
    tmp_path: Path, world: Path, tiny_model_folder: Path
) -> None:
    scores = [["1", "2", "2"], ["1", "1", "3", "3"], ["4"]]

    def set_scores(questions: list[dict[str, Any]]) -> None:
        for number, question in enumerate(questions):
            of_user = scores[number // 2]
            question["profile"] = [{"id": str(i), "text": "Fine.", "score": score} for i, score in enumerate(of_user)]

    edit_json(world / "LaMP_3_questions.json", set_scores)
    results = run_and_read(tmp_path / "run", lamp_spec(world, tiny_model_folder, "majority"))
    assert [set(answers.predictions.values()) for answers in results.values()] == [{"2"}, {"3"}, {"4"}]


@pytest.mark.parametrize("task", ["1", "4", "5", "7"])
def test_tasks_without_labelled_items_have_no_majority(tmp_path: Path, task: str, tiny_model_folder: Path) -> None:
    world = write_lamp_files(tmp_path / "world", task, users=1)
    with pytest.raises(UserError, match=f"the items of LaMP-{task} have no labels, so there is no majority"):
        run_lamp(tmp_path / "run", lamp_spec(world, tiny_model_folder, "majority", task=task))


def test_the_report_is_made_again_from_the_results_alone_which_have_no_texts(
    tmp_path: Path, world: Path, tiny_model_folder: Path
) -> None:
    run_lamp(tmp_path / "run", lamp_spec(world, tiny_model_folder, "non-personalized", "majority", "bm25:1"))
    published = tmp_path / "published.jsonl"
    published.write_bytes((tmp_path / "run" / "results.jsonl").read_bytes())
    assert write_report(LampFolder(published)) == (tmp_path / "run" / "report.md").read_text()
    users = json.loads((world / "LaMP_3_history.json").read_text())
    texts = [entry for user in users for entry in (user["user_id"], *(item["text"] for item in user["profile"]))]
    assert not any(text in published.read_text() for text in texts) and len(texts) == 3 + 12


def test_the_base_model_continues_the_beginning_of_a_record_and_ends_with_it(
    tmp_path: Path, world: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []

    def generate(lm: LanguageModel, tokens: list[list[int]], **settings: Any) -> list[str]:
        if "sampling" not in settings:  # an answer to a query
            return ["3"] * len(tokens)
        assert settings["sampling"].stop == ("}",)
        prompts.extend(map(lm.tokenizer.decode, tokens))
        return [f'Record {number} is good and long.", "answer": 4' for number in range(len(tokens))]

    monkeypatch.setattr(LanguageModel, "generate", generate)
    (answers,) = run_and_read(tmp_path, lamp_spec(world, tiny_model_folder, "cdcda", num_users=1)).values()
    assert prompts and all(prompt.endswith('{"text": "') for prompt in prompts)
    outcomes = {name: count for name, count in answers.result.counts.items() if name.startswith(Count.SYNTHETIC)}
    assert sum(outcomes.values()) == len(prompts) and "synthetic: unparsable" not in outcomes


def test_words_that_are_never_sent_are_not_in_the_results_but_part_of_the_setting(
    tmp_path: Path, world: Path, tiny_model_folder: Path
) -> None:
    for number, words in enumerate([(), ("zebedee",), ("zebedee", "florence")], 1):
        config = dataclasses.replace(SHORT_RUN, augment=dataclasses.replace(CONFIG, redacted_words=words))
        run_lamp(tmp_path, lamp_spec(world, tiny_model_folder, "majority", config=config))
        text = (tmp_path / "results.jsonl").read_text()
        assert text.count('"metadata"') == number and "zebedee" not in text and "florence" not in text


def test_equal_gold_answers_are_stated(tmp_path: Path, world: Path, tiny_model_folder: Path) -> None:
    def equalize(outputs: dict[str, Any]) -> None:
        for entry in outputs["golds"]:
            entry["output"] = "4"

    def report() -> str:
        run_lamp(tmp_path / "run", lamp_spec(world, tiny_model_folder, "majority"))
        return (tmp_path / "run" / "report.md").read_text()

    assert "All gold answers are equal" not in report()
    edit_json(world / "LaMP_3_outputs.json", equalize)
    assert report().count("All gold answers are equal, so one answer for all is right") == 1


@pytest.mark.parametrize("line", [b'{"setting": "s", "user": 1, "meth', b'{"setting"'])
def test_an_incomplete_last_line_is_computed_again(
    tmp_path: Path, world: Path, tiny_model_folder: Path, line: bytes
) -> None:
    spec = lamp_spec(world, tiny_model_folder, "majority")
    results = run_and_read(tmp_path / "run", spec)
    path = tmp_path / "run" / "results.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]) + line)
    again = run_lamp(tmp_path / "run", spec)
    assert (again.num_stored, again.num_computed) == (2, 1)
    assert run_and_read(tmp_path / "run", spec) == results


@pytest.mark.slow
def test_the_files_of_lamp_and_oppu_give_the_same_results(tmp_path: Path, world: Path, tiny_model_folder: Path) -> None:
    spec = lamp_spec(world, tiny_model_folder, "bm25:1", "cdcda+recency:1", num_users=2)
    history = dataclasses.replace(spec, questions=world / "LaMP_3_history.json", outputs=None)
    assert run_and_read(tmp_path / "official", spec) == run_and_read(tmp_path / "oppu", history)


def test_an_adapter_is_trained_on_texts_of_its_user_and_on_no_query(
    tmp_path: Path, world: Path, trained_adapters: list[TrainedAdapter], tiny_model_folder: Path
) -> None:
    run_and_read(tmp_path / "run", lamp_spec(world, tiny_model_folder, "oppu+bm25:2"))
    users = json.loads((world / "LaMP_3_history.json").read_text())
    texts = [[item["text"] for item in user["profile"]] for user in users]
    assert len(trained_adapters) == len(users)
    for number, (_, messages) in enumerate(trained_adapters):
        trained_text = json.dumps(messages)
        for other, user_texts in enumerate(texts):
            assert [text in trained_text for text in user_texts] == [other == number] * len(user_texts)
        assert not any(query["input"] in trained_text for user in users for query in user["query"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": []}, "no method is named"),
        ({"methods": ["cloud"]}, "the method cloud needs a server"),
        ({"num_users": 0}, "the number of users is 0"),
        ({"others_outputs": Path("x.json")}, "outputs of other users, but no questions"),
        ({"task": "6"}, "no LaMP task"),
        ({"outputs": None}, "name their outputs as well"),
        ({"model": "/nowhere/at/all"}, "no such model folder"),
    ],
)
def test_an_invalid_specification_is_a_user_error(
    tmp_path: Path, world: Path, tiny_model_folder: Path, change: dict[str, Any], message: str
) -> None:
    spec = dataclasses.replace(lamp_spec(world, tiny_model_folder, "oppu"), **change)
    with pytest.raises(UserError, match=message):
        run_lamp(tmp_path / "run", spec)
