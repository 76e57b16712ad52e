"""`lamp`: run, resume, report, download, and wrong input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import http_client
from mlx_personal.cli import lamp as commands
from mlx_personal.research.lamp import lamp_jobs
from mlx_personal.research.lamp.download import SPLITS
from mlx_personal.research.lamp.lamp_results import Count
from mlx_personal.research.lamp.predictions import read_outputs
from mlx_personal.research.lamp.tasks import TASKS
from tests.support.augmentation import grant_consent, make_server
from tests.support.cli import error_line, run_cli, run_json
from tests.support.fake_server import FakeServer
from tests.support.lamp_users import cloud_response, edit_json, write_lamp_files
from tests.support.paths import ROOT
from tests.test_offline import ANSWER_SCRIPT, DEMO_MODEL_FOLDER, cloud, offline_command_prefixes

SHORT = ["--answer-tokens", "3", "--synthetic", "2", "--epochs", "1"]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with LaMP's files."""
    return write_lamp_files(tmp_path / "world")


@pytest.fixture
def official(world: Path) -> list[Any]:
    """The arguments of a run on LaMP's files."""
    questions, outputs = world / "LaMP_3_questions.json", world / "LaMP_3_outputs.json"
    return ["lamp", "run", "--task", "3", "--questions", questions, "--outputs", outputs]


@pytest.fixture
def command(official: list[Any], tiny_model_folder: Path, tmp_path: Path, in_process_jobs: Any) -> list[Any]:
    """The arguments of a run that takes little time."""
    return [*official, "--model", tiny_model_folder, "--out", tmp_path / "run", "--method", "non-personalized", *SHORT]


@pytest.mark.slow
def test_official_files_are_run_unchanged(
    official: list[Any], in_process_jobs: Any, home: Path, tiny_model_folder: Path
) -> None:
    methods = "non-personalized,bm25,oppu,cdcda"
    arguments = [*official, "--method", methods, "--model", tiny_model_folder, "--users", "3", *SHORT]
    data = run_json(*arguments)
    assert (data["ran"], data["found"], data["failed"], data["unanswered"]) == (12, 0, [], 0)
    assert (data["files"]["users"], data["files"]["queries"]) == (3, 6)
    assert [row["method"] for row in data["methods"]] == methods.split(",")
    for row in data["methods"]:
        assert (row["users"], row["queries"]) == (3, 6)
        assert row["metrics"]["MAE"]["low"] <= row["metrics"]["MAE"]["value"] <= row["metrics"]["MAE"]["high"]
    assert data["folder"] == str(home / "lamp")
    written = read_outputs(TASKS["3"], home / "lamp" / "predictions" / "oppu.json")
    assert written.by_id.keys() == read_outputs(TASKS["3"], official[-1]).by_id.keys()
    assert run_json(*arguments)["found"] == 12
    report = run_json("lamp", "report", "--out", home / "tables.md")["markdown"]
    assert all(f"\n| {name} " in report for name in methods.split(","))
    assert (home / "tables.md").read_text() == report == (home / "lamp" / "report.md").read_text()
    assert run_json("lamp", "report", home / "lamp" / "results.jsonl")["markdown"] == report


def test_result_is_shown_as_text(command: list[Any], tmp_path: Path) -> None:
    result = run_cli(*command)
    assert result.exit_code == 0
    assert "3 users, 6 queries, 12 items.\n3 results computed, 0 stored already.\n" in result.stdout
    assert (
        "MAE" in result.stdout and f"Predictions in LaMP's format: {tmp_path / 'run' / 'predictions'}" in result.stdout
    )
    assert "mlx-personal: users 3/3, 0 s left" in result.stderr


def test_oppu_history_needs_no_outputs(command: list[Any], world: Path) -> None:
    history = command.copy()
    history[history.index("--questions") + 1] = world / "LaMP_3_history.json"
    place = history.index("--outputs")
    assert run_json(*history[:place], *history[place + 2 :])["ran"] == 3


def test_choose_answers_with_labels_only(command: list[Any], tmp_path: Path) -> None:
    run_json(*command, "--choose")
    written = read_outputs(TASKS["3"], tmp_path / "run" / "predictions" / "non-personalized.json")
    assert set(written.by_id.values()) <= set(TASKS["3"].labels)


def test_adapters_of_fewer_layers_are_smaller_and_another_setting(command: list[Any]) -> None:
    sizes = []
    for layers in ([], ["--num-layers", "1"]):
        data = run_json(*command, "--method", "oppu", "--users", "1", *layers)
        assert data["ran"] == 1
        sizes.append(data["methods"][0]["adapter_kb"])
    assert sizes[1] < 0.8 * sizes[0]


def test_failed_user_sets_the_exit_code(command: list[Any], in_process_jobs: Any) -> None:
    in_process_jobs.fails = lambda function, job: "out of breath" if job.key == "1" else None
    result = run_cli(*command)
    assert result.exit_code == 1
    assert "failed: user-1-1: out of breath" in result.stdout


@pytest.mark.slow
def test_server_needs_consent_and_missing_responses_set_the_exit_code(command: list[Any], tmp_path: Path) -> None:
    with FakeServer(cloud_response) as fake_server:
        command += ["--server", fake_server.url, "--server-model", "cloud", "--method", "cdcda,cloud:0"]
        line = error_line(*command)
        assert (
            f"mlx-personal augment consent --server {fake_server.url} --server-model cloud --out {tmp_path / 'run'}"
            in line
        )
        assert not fake_server.received
        grant_consent(tmp_path / "run", make_server(fake_server.url))
        data = run_json(*command)
        assert (data["ran"], len(fake_server.received)) == (6, 6 + 6) and data["server_tokens"] == 12 * 15
        cut = run_cli(*command, "--method", "cloud:1", "--token-budget", "1")
        assert cut.exit_code == 1
        assert "the token budget is used up" in cut.stdout and "3 results lack responses" in cut.stdout


# Counts of what was skipped


def run_on_changed_questions(command: list[Any], world: Path, change: Any) -> Any:
    edit_json(world / "LaMP_3_questions.json", change)
    return run_json(*command), run_cli(*command).stdout


def test_items_without_a_label_are_skipped_and_counted(command: list[Any], world: Path) -> None:
    def remove_labels(questions: Any) -> None:
        for question in questions[:2]:  # the first user's two
            del question["profile"][0]["score"]

    data, result = run_on_changed_questions(command, world, remove_labels)
    assert (data["files"]["skipped_items"], data["files"]["items"]) == (1, 11)
    assert "1 items were skipped because they lack a text or an answer." in result


def test_users_with_few_items_are_answered_and_counted(command: list[Any], world: Path) -> None:
    def remove_items(questions: Any) -> None:
        for question in questions[:2]:
            question["profile"] = []
        for question in questions[2:4]:
            del question["profile"][1:]

    command += ["--method", "bm25:1,oppu"]
    data, result = run_on_changed_questions(command, world, remove_items)
    assert data["ran"] == 6
    assert (data["files"]["empty_profiles"], data["files"]["single_items"]) == (1, 1)
    assert "1 users have no items." in result and "1 users have one item." in result
    counts = {row["method"]: row["counts"] for row in data["methods"]}
    assert (counts["bm25:1"][Count.NO_ITEMS], counts["oppu"][Count.NO_TRAINING]) == (2, 1)
    assert all(row["queries"] == 6 for row in data["methods"])


def test_items_beyond_the_maximum_length_are_counted(command: list[Any]) -> None:
    command += ["--method", "bm25", "--max-length", "20"]
    (row,) = run_json(*command)["methods"]
    assert row["counts"] == {Count.ITEMS_LEFT_OUT: 6} and row["queries"] == 6
    assert "- bm25: 6 queries whose items did not fit" in run_cli(*command).stdout


def test_outputs_without_a_question_are_counted(command: list[Any], world: Path) -> None:
    extra = {"id": "more", "output": "5"}
    edit_json(world / "LaMP_3_outputs.json", lambda outputs: outputs["golds"].append(extra))
    assert run_json(*command)["files"]["unasked_outputs"] == 1


def test_queries_with_an_empty_gold_are_answered_and_not_scored(
    command: list[Any], world: Path, tmp_path: Path
) -> None:
    edit_json(world / "LaMP_3_outputs.json", lambda outputs: outputs["golds"][0].update(output=""))
    data = run_json(*command)
    assert (data["ran"], data["failed"], data["files"]["unscorable_queries"]) == (3, [], 1)
    assert data["methods"][0]["counts"][Count.NO_GOLD] == 1
    # LaMP's own script needs a prediction for each id.
    written = read_outputs(TASKS["3"], tmp_path / "run" / "predictions" / "non-personalized.json")
    assert written.by_id.keys() == read_outputs(TASKS["3"], world / "LaMP_3_outputs.json").by_id.keys()
    text = run_cli(*command).stdout
    assert "1 queries have an empty gold answer, so they are answered but not scored." in text
    assert "- non-personalized: 1 queries without a gold answer" in text


def test_questions_merged_with_their_outputs_need_no_other_file(command: list[Any], world: Path) -> None:
    golds = read_outputs(TASKS["3"], world / "LaMP_3_outputs.json").by_id
    apart = run_json(*command)
    edit_json(world / "LaMP_3_questions.json", lambda qs: [{**q, "output": golds[q["id"]]} for q in qs])
    place = command.index("--outputs")
    merged = run_json(*command[:place], *command[place + 2 :])
    assert (merged["ran"], merged["files"]["queries"]) == (3, 6)
    assert merged["methods"][0]["metrics"] == apart["methods"][0]["metrics"]


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--task", "6"], "there is no LaMP task '6'; choose one of 1, 2N, 2M, 3, 4, 5, 7"),
        (["--task", "4"], "these are outputs of 'LaMP_3', not of LaMP_4"),
        (["--method", "magic"], "there is no method 'magic'; choose from non-personalized, majority, random"),
        (["--method", "cdcda-no-luck"], "there is no method 'cdcda-no-luck'"),
        (["--method", ","], "no method is named"),
        (["--method", "cloud"], "the method cloud needs a server"),
        (["--task", "4", "--method", "majority"], "the items of LaMP-4 have no labels, so there is no majority"),
        (["--server", "http://127.0.0.1:9/v1"], "--server needs --server-model"),
        (["--server-model", "x"], "--max-tokens and --without-field need --server"),
        (["--max-tokens", "9"], "--max-tokens and --without-field need --server"),
        (["--without-field", "seed"], "--max-tokens and --without-field need --server"),
        (["--server", "http://127.0.0.1:9/v1", "--server-model", "x", "--key-env", "NO_SUCH"], "NO_SUCH"),
        (["--server", "nowhere", "--server-model", "x"], "nowhere"),
        (["--model", "/nowhere/at/all"], "no such model folder"),
        (["--questions", "nowhere.json"], "nowhere.json: no such file"),
        (["--outputs", "nowhere.json"], "nowhere.json: no such file"),
        (["--users", "0"], "--users"),
        (["--others-outputs", "x.json"], "outputs of other users, but no questions"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_wrong_input_is_reported_on_one_line(command: list[Any], change: list[str], message: str) -> None:
    assert message in error_line(*command, *change)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("questions", lambda q: q.append(q[0]), "the question 'user-1-0-q0' occurs twice"),
        ("questions", lambda q: q.append({**q[0], "id": "new"}), "the question 'new' has no output"),
        ("questions", lambda q: q[0].pop("profile") and None, "question 1 has no list 'profile'"),
        ("questions", lambda q: q[0].update(input="What?"), "not an input of LaMP-3"),
        ("questions", lambda q: {"id": "1"}, "no questions in this file"),
        ("outputs", lambda o: o["golds"].append(o["golds"][0]), "the id 'user-1-0-q0' occurs twice"),
        ("outputs", lambda o: o["golds"][0].update(output="fine"), "is not an answer of LaMP-3"),
        ("outputs", lambda o: {"task": "LaMP_3", "golds": []}, "no outputs of a LaMP task"),
        ("outputs", lambda o: [{**g, "output": ""} for g in o["golds"]], "no question has an answer to score"),
    ],
)
def test_invalid_file_is_reported_before_anything_is_computed(
    command: list[Any], world: Path, in_process_jobs: Any, part: str, change: Any, message: str
) -> None:
    edit_json(world / f"LaMP_3_{part}.json", change)
    assert message in error_line(*command)
    assert not in_process_jobs.done


def test_questions_without_outputs_are_refused(command: list[Any]) -> None:
    place = command.index("--outputs")
    assert "name their outputs as well" in error_line(*command[:place], *command[place + 2 :])


def test_path_without_results_is_refused(tmp_path: Path) -> None:
    command = f"mlx-personal lamp run --task TASK --questions FILE --method NAME --out {tmp_path}"
    message = f"there are no results of a LaMP run here; run `{command}` first"
    assert message in error_line("lamp", "report", tmp_path)
    empty, text = tmp_path / "empty.jsonl", tmp_path / "text.jsonl"
    empty.write_text("")
    assert error_line("lamp", "report", empty).endswith("empty.jsonl: there are no results of a LaMP run here")
    text.write_text("hello\n")
    assert "text.jsonl: line 1 is not a JSON object" in error_line("lamp", "report", text)


def test_run_into_a_file_or_a_run_of_version_0_1_is_refused(command: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file; a LaMP run is a folder; name a folder" in error_line(*command, "--out", file)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "lamp.db").write_bytes(b"")
    for arguments in ([*command, "--out", tmp_path / "old"], ["lamp", "report", tmp_path / "old"]):
        assert "is a LaMP run of version 0.1, which cannot be read; name another folder" in error_line(*arguments)


# Download and choices


def test_download_lists_its_files_and_downloads_none_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = []

    def fetch(address: Any, path: Any, on_progress: Any = None) -> None:
        urls.append(address)
        path.parent.mkdir(parents=True)
        path.write_text("[]")

    monkeypatch.setattr(http_client, "download", fetch)
    arguments = ["lamp", "download", tmp_path, "--task", "3", "--task", "2M", "--split", "test", "--by-time"]
    data = run_json(*arguments)["files"]
    assert [Path(f).relative_to(tmp_path).as_posix() for f in data] == [
        "time/LaMP_3/test_questions.json",
        "time/LaMP_2M/test_questions.json",
    ]
    assert len(urls) == 2
    assert run_cli(*arguments).stdout.splitlines() == data and len(urls) == 2
    assert "there is no LaMP task '9'" in error_line("lamp", "download", tmp_path, "--task", "9")


def test_choices_are_those_of_the_library() -> None:
    # Written down twice, since --help does not import the library.
    assert tuple(TASKS) == commands._TASKS
    assert commands._SPLITS == SPLITS


def test_help_imports_no_model_library() -> None:
    code = "import sys; from mlx_personal.cli import main; main(['lamp', 'run', '--help'], standalone_mode=False)"
    code += "; assert not {'mlx.core', 'transformers', 'mlx_lm', 'ijson'} & set(sys.modules), 'heavy imports'"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--method" in result.stdout


# The whole path with a real server

# Runs a command in a process that ends at the first use of a network when it is "guarded". Jobs run in that process, as
# worker processes would not be guarded.
GUARDED_COMMAND = (
    ANSWER_SCRIPT.partition("from mlx_personal")[0]
    + f"""
sys.path.insert(0, {str(ROOT)!r})
from tests.support.augmentation import InProcessJobs
from mlx_personal import jobs
jobs.run_jobs = InProcessJobs()
from mlx_personal.cli import main
main(sys.argv[2:])
"""
)


@pytest.mark.slow
def test_records_of_a_real_server_are_trained_on_offline(tmp_path: Path, cloud: Any, in_process_jobs: Any) -> None:
    """Check the steps only: the demo model is not a good teacher."""
    url, process = cloud
    world, folder = write_lamp_files(tmp_path / "world", queries=1), tmp_path / "run"
    command = ["lamp", "run", "--task", "3", "--questions", world / "LaMP_3_questions.json"]
    command += [
        "--outputs",
        world / "LaMP_3_outputs.json",
        "--model",
        DEMO_MODEL_FOLDER,
        "--users",
        "3",
        "--method",
        "oppu,cdcda",
    ]
    command += [*SHORT, "--server", url, "--server-model", DEMO_MODEL_FOLDER, "--json"]
    assert (
        run_cli(
            "augment", "consent", "--server", url, "--server-model", DEMO_MODEL_FOLDER, "--out", folder, "--yes"
        ).exit_code
        == 0
    )
    # First only what the server has a part in.
    in_process_jobs.fails = lambda function, job: "not yet" if function is lamp_jobs.run_methods else None
    urls = json.loads(run_cli(*command, "--out", folder).stdout)
    assert (urls["ran"], len(urls["failed"])) == (0, 3) and urls["server_tokens"] > 0
    shutil.copytree(folder, tmp_path / "online")
    in_process_jobs.fails = lambda function, job: None
    online = run_json(*command[:-1], "--out", tmp_path / "online")
    assert online["ran"] == 6
    counts = online["methods"][1]["counts"]
    assert sum(count for reason, count in counts.items() if reason.startswith("synthetic: ")) == 6
    process.terminate()
    process.wait(20)
    for number, prefix in enumerate(offline_command_prefixes()):
        offline_folder = tmp_path / f"offline-{number}"
        shutil.copytree(folder, offline_folder)
        arguments = [
            *prefix,
            sys.executable,
            "-c",
            GUARDED_COMMAND,
            "guarded",
            *map(str, [*command, "--out", offline_folder]),
        ]
        completed = subprocess.run(arguments, capture_output=True, text=True)
        assert completed.returncode == 0, completed.stderr
        data = json.loads(completed.stdout)
        assert data["ran"] == 6
        for offline_row, online_row in zip(data["methods"], online["methods"], strict=True):
            assert offline_row["metrics"] == online_row["metrics"] and offline_row["counts"] == online_row["counts"]
        for name in ("oppu.json", "cdcda.json"):
            path = Path("predictions", name)
            assert (offline_folder / path).read_text() == (tmp_path / "online" / path).read_text()


assert cloud  # a fixture
