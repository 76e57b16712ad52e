"""Log lines: where they go, and that they never contain the user's texts or keys."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from tests.support.cli import dialogue_line, error_line, run_cli, run_json
from tests.support.fake_server import FakeServer

LOGGER = logging.getLogger("mlx_personal")
# Words that occur in the dialogues, the answers and the question alone.
WORDS = ["zanzibar", "quokka", "marzipan", "oboe", "tugboat", "rhubarb", "gnocchi", "lighthouse", "bagpipe", "walnut"]


def own_handlers() -> list[logging.Handler]:
    """Return the handlers that print or write lines."""
    return [handler for handler in LOGGER.handlers if not isinstance(handler, logging.NullHandler)]


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "log file.txt"


@pytest.fixture
def dialogues(tmp_path: Path) -> Path:
    """A file with 20 dialogues that consist of `WORDS`."""
    file = tmp_path / "dialogues.jsonl"
    lines = []
    for i in range(20):
        one, two, three = WORDS[i % 10], WORDS[(i * 3 + i // 10) % 10], WORDS[(i * 7 + 1) % 10]
        lines.append(dialogue_line(f"Where is the {one} of the {two}?", f"The {one} {i} is at the {three}."))
    file.write_text("\n".join(lines))
    return file


def test_log_lines_go_to_the_file(profile: Path, log_file: Path) -> None:
    assert run_cli("--log-file", log_file, "status").stderr == ""
    first = log_file.read_text("utf-8")
    assert " INFO mlx_personal.cli.main: mlx-personal " in first and first.rstrip().splitlines()[0].endswith("status")
    run_cli("--log-file", log_file, "status")
    assert log_file.read_text("utf-8").startswith(first) and len(log_file.read_text("utf-8")) > len(first)
    assert log_file.stat().st_mode & 0o777 == 0o600
    assert not own_handlers() and LOGGER.level == logging.NOTSET


def test_file_that_others_can_read_is_made_private(profile: Path, log_file: Path) -> None:
    log_file.write_text("")
    log_file.chmod(0o644)
    run_cli("--log-file", log_file, "status")
    assert log_file.stat().st_mode & 0o777 == 0o600


def test_verbose_prints_log_lines_on_standard_error(profile: Path) -> None:
    assert run_cli("status").stderr == ""
    info = run_cli("-v", "status").stderr
    debug = run_cli("-vv", "chat", "What is a lamp?").stderr
    assert " INFO mlx_personal.cli.main: " in info and " DEBUG " not in info
    assert " INFO mlx_personal.cli.main: " in debug
    assert run_cli("status").stderr == "" and not own_handlers()


def test_old_names_of_settings_are_reported_on_one_line(profile: Path) -> None:
    settings = profile / "config.toml"
    settings.write_text(settings.read_text().replace("holdout_ratio", "share"))
    for command in (["status"], ["adapters", "list"]):
        (line,) = run_cli(*command).stderr.splitlines()
        assert line.startswith(f"mlx-personal: {settings}: ") and "share is now holdout_ratio" in line


def test_file_that_cannot_be_written_is_reported_on_one_line(profile: Path, tmp_path: Path) -> None:
    assert "no such file or folder" in error_line("--log-file", tmp_path / "none" / "log", "status")
    assert not own_handlers()


@pytest.mark.slow
def test_log_of_the_loop_has_no_user_text(home: Path, dialogues: Path, log_file: Path, tmp_path: Path) -> None:
    assert run_cli("init", "--model", "demo").exit_code == 0
    settings = home / "profiles" / "default" / "config.toml"
    settings.write_text(
        "[selection]\nbins = 8\n[annotation]\nquestions_per_day = 9\n[synthesis]\nk = 1\nmax_tokens = 32\n"
        "[finetune]\nepochs = 1\n[evaluation]\nmax_tokens = 8\nholdout_ratio = 0.5\n[chat]\nmax_tokens = 16\n"
    )
    run_json("--log-file", log_file, "import", dialogues)
    verdicts = tmp_path / "verdicts.jsonl"
    lines = [{"dialogue": q["dialogue"], "verdict": "accept"} for q in run_json("review")["questions"]]
    verdicts.write_text("\n".join(map(json.dumps, lines)))
    run_json("--log-file", log_file, "review", "--answers", verdicts)
    run_json("--log-file", log_file, "synthesize")
    run_json("--log-file", log_file, "train")
    answer = run_json("--log-file", log_file, "chat", "Where is the zanzibar quokka?")["answer"]
    log = log_file.read_text("utf-8")
    for command in ("import", "synthesize", "train", "chat"):
        assert f": {command}\n" in log
    assert " DEBUG " in log
    generated = [line for line in answer.splitlines() if len(line) > 3]
    assert not [text for text in [*WORDS, *generated] if text in log]


def test_log_of_a_chat_has_no_question_and_no_answer(profile: Path, log_file: Path) -> None:
    answer = run_json("--log-file", log_file, "chat", "Where is the zanzibar quokka?")["answer"]
    log = log_file.read_text("utf-8")
    assert "zanzibar" not in log and "quokka" not in log and answer not in log


def test_log_of_an_augmentation_has_no_key_and_no_text(
    tmp_path: Path,
    tiny_model_folder: Path,
    fake_server: FakeServer,
    in_process_jobs: object,
    log_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users, out = tmp_path / "users", tmp_path / "out"
    users.mkdir()
    lines = [dialogue_line(f"Where is the {word} {i}?", f"Take {word}.") for i, word in enumerate(WORDS[:4])]
    (users / "ann.jsonl").write_text("\n".join(lines))
    server = ["--server", fake_server.url, "--server-model", "cloud"]
    assert run_cli("augment", "consent", *server, "--out", out, "--yes").exit_code == 0
    fake_server.api_key = "sk-secret-key"
    monkeypatch.setenv("MY_KEY", "sk-secret-key")
    command = ["augment", *server, "--users", users, "--out", out, "--model", tiny_model_folder, "--key-env", "MY_KEY"]
    command += [
        "--k",
        3,
        "--demonstrations",
        2,
        "--epochs",
        1,
        "--off",
        "style",
        "--off",
        "perplexity",
        "--off",
        "label",
    ]
    assert run_json("--log-file", log_file, *command)["asked"]["new"] == 3
    monkeypatch.setenv("MY_KEY", "sk-wrong-key")
    command[command.index("--k") + 1] = 4
    error_line("--log-file", log_file, *command)
    log = log_file.read_text("utf-8")
    assert " DEBUG mlx_personal." in log and log.count(": augment\n") == 2
    sent = [received.body.decode() for received in fake_server.received]
    assert sent and not [text for text in [*WORDS[:4], "sk-", "Bearer", *sent] if text in log]
