"""`augment`: consent, preview, runs for users and for the profile, the ledger, and wrong input."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_personal.augmentation import user_jobs
from mlx_personal.augmentation.filters import FILTERS
from mlx_personal.augmentation.server import OPTIONAL_FIELDS
from mlx_personal.cli import augment as commands
from mlx_personal.cli import server_options as server_options_module
from tests.support.augmentation import NOUNS
from tests.support.cli import dialogue_line, error_line, run_cli, run_json
from tests.support.fake_server import FakeServer, Fault

QUICK = ["--k", "3", "--demonstrations", "2", "--epochs", "1", "--rank", "2", "--seed", "5"]
# A random model writes in no style and finds nothing likely.
LENIENT = ["--off", "style", "--off", "perplexity", "--off", "label"]


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """A folder with the files of two users."""
    folder = tmp_path / "users"
    folder.mkdir()
    for name in ("ann", "bob"):
        lines = [dialogue_line(f"{name} asks about {noun} {i}", f"Take {noun}.") for i, noun in enumerate(NOUNS[:4])]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def server_options(fake_server: FakeServer) -> list[str]:
    """The options that name the fake server."""
    return ["--server", fake_server.url, "--server-model", "cloud"]


@pytest.fixture
def command(
    users: Path, tmp_path: Path, server_options: list[str], tiny_model_folder: Path, in_process_jobs: Any
) -> list[Any]:
    """The arguments of a run for two users."""
    out = tmp_path / "out"
    return ["augment", *server_options, "--users", users, "--out", out, "--model", tiny_model_folder, *QUICK, *LENIENT]


def consent(server_options: list[str], *more: object) -> None:
    """Give consent on the command line."""
    assert run_cli("augment", "consent", *server_options, *more, "--yes").exit_code == 0


def test_users_from_consent_to_adapters_and_ledger(
    command: list[Any], server_options: list[str], fake_server: FakeServer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    line = error_line(*command)
    assert "nothing is sent to" in line and f"--out {out}" in line and not fake_server.received
    # The command that the error names, as a shell would read it.
    assert run_cli(*shlex.split(line.split("`")[1])[1:], "--yes").exit_code == 0
    assert out.stat().st_mode & 0o777 == 0o700
    result = run_cli(*command)
    assert result.exit_code == 0, result.output
    assert "6 new responses, 0 from the cache, 90 tokens in total." in result.stdout
    assert "2 new adapters in" in result.stdout and "ann: 4 records, 4 sent," in result.stdout
    assert (out / "adapters" / "bob" / "adapters.safetensors").exists()
    again = run_json(*command)
    assert list(again["found"]) == ["ann", "bob"] and again["asked"] is None
    assert not again["learnt"]  # codespell:ignore learnt
    assert len(fake_server.received) == 6
    totals = run_json("augment", "ledger", "--out", out)
    size = sum(len(received.body) for received in fake_server.received)
    assert totals == {"attempts": 6, "bytes": size, "unanswered": 0, "record": str(out / "ledger.jsonl")}
    assert (
        f"{size:,} bytes were sent, or about to be sent, in 6 attempts.\n"
        in run_cli("augment", "ledger", "--out", out).stdout
    )
    assert run_cli("augment", "consent", *server_options, "--out", out, "--withdraw").exit_code == 0
    assert "without your consent" in error_line(*command)


def test_dry_run_prints_exactly_what_is_sent_later(
    command: list[Any], server_options: list[str], fake_server: FakeServer, tmp_path: Path
) -> None:
    result = run_json(*command, "--dry-run")
    text = run_cli(*command, "--dry-run").stdout
    assert not fake_server.received and not (tmp_path / "out").exists()
    consent(server_options, "--out", tmp_path / "out")
    run_json(*command)
    sent = sorted(received.body.decode() for received in fake_server.received)
    assert sorted(request["body"] for request in result["requests"]) == sent
    assert result["bytes"] == sum(len(body.encode()) for body in sent)
    assert sorted(line.partition(": ")[2] for line in text.splitlines()[:-1]) == sent
    assert text.splitlines()[-1] == f"6 requests, {result['bytes']:,} bytes; nothing was sent."


GUARDED = """
import sys
def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise SystemExit(f"the network was used: {event} {arguments}")
sys.addaudithook(guard)
from mlx_personal.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_dry_run_uses_no_network(command: list[Any], fake_server: FakeServer) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", GUARDED, *map(str, command), "--dry-run", "--json"], capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    assert len(json.loads(completed.stdout)["requests"]) == 6 and not fake_server.received


def test_profile_from_consent_to_synthetic_dialogues(
    tmp_path: Path, server_options: list[str], fake_server: FakeServer, tiny_model_folder: Path
) -> None:
    assert run_cli("init", "--model", tiny_model_folder).exit_code == 0
    file = tmp_path / "chats.jsonl"
    lines = [dialogue_line(f"How is the {noun} {i}?", f"The {noun} is {i}.") for i, noun in enumerate(NOUNS)]
    file.write_text("\n".join(lines))
    run_json("import", file)
    questions = run_json("review")["questions"]
    verdicts = tmp_path / "verdicts.jsonl"
    verdicts.write_text("\n".join(json.dumps({"dialogue": q["dialogue"], "verdict": "accept"}) for q in questions))
    assert run_cli("review", "--answers", verdicts).exit_code == 0
    command = ["augment", *server_options, "--k", "3", "--demonstrations", "2", *LENIENT]
    assert "nothing is sent" in error_line(*command)
    consent(server_options)
    result = run_json(*command, "--dry-run")
    completed = run_json(*command)
    assert completed["kept"] > 0 and completed["asked"]["new"] == 3 and "answers" not in completed["asked"]
    assert sorted(r["body"] for r in result["requests"]) == sorted(r.body.decode() for r in fake_server.received)
    assert "synthetic dialogues were stored already" in run_cli(*command).stdout
    assert run_json("augment", "ledger")["attempts"] == 3
    assert run_json("augment", "consent", *server_options, "--withdraw")["granted"] is False
    assert "nothing is sent" in error_line(*command)


def test_failed_user_sets_the_exit_code(
    command: list[Any], server_options: list[str], fake_server: FakeServer, in_process_jobs: Any, tmp_path: Path
) -> None:
    consent(server_options, "--out", tmp_path / "out")
    in_process_jobs.fails = lambda function, job: (
        "out of breath" if (function, job.key) == (user_jobs.train, "ann") else None
    )
    result = run_cli(*command)
    assert (
        result.exit_code == 1 and "failed ann: out of breath" in result.stdout and "1 new adapters in" in result.stdout
    )


def test_unreachable_server_leaves_users_for_the_next_run(
    command: list[Any],
    server_options: list[str],
    fake_server: FakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlx_personal.augmentation import server

    monkeypatch.setattr(server.Server.__init__, "__defaults__", (None, 0.8, 512, 120.0, 1, 0.0, frozenset()))
    consent(server_options, "--out", tmp_path / "out")
    fake_server.default_fault = Fault(status=500)
    result = run_cli(*command)
    assert result.exit_code == 1
    assert "incomplete ann: some responses are missing; run the same command again" in result.stdout
    assert "does not respond (it returned HTTP 500: a message of 500)" in result.stdout
    fake_server.default_fault = None
    assert list(run_json(*command)["learnt"]) == ["ann", "bob"]  # codespell:ignore learnt


def test_excluded_users_and_invalid_lines_are_reported(
    command: list[Any], server_options: list[str], users: Path, tmp_path: Path
) -> None:
    consent(server_options, "--out", tmp_path / "out")
    (users / "cyd.jsonl").write_text(dialogue_line("one", "record") + "\n{\n")
    result = run_cli(*command)
    assert result.exit_code == 0
    reason = "not JSON (expecting property name enclosed in double quotes)"
    assert f"left out cyd: one record, 1 skipped: {reason}" in result.stdout
    assert "cyd.jsonl:2: not JSON" in result.stdout
    data = run_json(*command)
    assert data["left_out"] == {"cyd": f"one record, 1 skipped: {reason}"} and len(data["bad_lines"]) == 1


def test_records_too_long_to_send_are_reported(
    command: list[Any], server_options: list[str], fake_server: FakeServer, tmp_path: Path
) -> None:
    consent(server_options, "--out", tmp_path / "out")
    result = run_cli(*command, "--tokens", "1")
    assert result.exit_code == 0 and not fake_server.received
    assert "ann: 4 records, 0 sent (4 too long), 0 synthetic ones kept of 0" in result.stdout


def test_key_is_read_from_the_environment_and_never_shown(
    command: list[Any],
    server_options: list[str],
    fake_server: FakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    consent(server_options, "--out", tmp_path / "out")
    fake_server.api_key = "sk-secret"
    assert "requires a key" in error_line(*command)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")  # of another server, for all anybody knows
    assert "requires a key" in error_line(*command)
    assert "NO_SUCH_KEY: this environment variable is empty or not set" in error_line(
        *command, "--key-env", "NO_SUCH_KEY"
    )
    monkeypatch.setenv("MY_KEY", "sk-wrong")
    assert "refuses the key" in error_line(*command, "--key-env", "MY_KEY")
    monkeypatch.setenv("MY_KEY", "sk-secret")
    result = run_cli(*command, "--key-env", "MY_KEY")
    assert result.exit_code == 0 and "sk-" not in result.output
    written = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert not any(b"sk-secret" in file.read_bytes() or b"sk-wrong" in file.read_bytes() for file in written)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--server", "http://example.org/v1"], "personal text must not be sent over plain http"),
        (["--server", "example.org"], "is not an http or https URL"),
        (["--server-model", " "], "the server's model has no name"),
        (["--users", "nowhere"], "no such file or folder"),
        (["--k", "0"], "'--k'"),
        (["--k", "99999"], "num_synthetic is 99999; it must lie in 1..10,000"),
        (["--off", "taste"], "'taste' is not one of"),
        (["--synthetic-weight", "2"], "'--synthetic-weight'"),
        (["--model", "no/such/model/here"], "no such model folder"),
    ],
)
def test_wrong_input_is_reported_on_one_line(
    change: list[str], message: str, command: list[Any], server_options: list[str], tmp_path: Path
) -> None:
    consent(server_options, "--out", tmp_path / "out")
    assert message in error_line(*command, *change)


def test_conflicting_options_are_refused(server_options: list[str], users: Path) -> None:
    assert "name the --server and its --server-model" in error_line("augment", "--server-model", "cloud")
    assert "--users needs --out, the output folder of the adapters" in error_line(
        "augment", *server_options, "--users", users
    )
    assert "--out is the folder of the users" in error_line(
        "augment", *server_options, "--users", users, "--out", users
    )
    assert "--epochs needs --users" in error_line("augment", *server_options, "--epochs", "2")
    assert "there is no profile here yet" in error_line("augment", *server_options)


def test_consent_needs_a_terminal_or_yes(
    server_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--out", tmp_path / "out"]
    assert "there is no terminal to ask for your consent" in error_line("augment", "consent", *server_options, *out)

    class AtATerminal:
        @staticmethod
        def isatty() -> bool:
            return True

    monkeypatch.setattr(commands, "sys", type("Sys", (), {"stdin": AtATerminal}))
    no = run_cli("augment", "consent", *server_options, *out, stdin="n\n")
    assert no.exit_code == 1 and "Do you consent?" in no.stdout and "cannot be taken back" in no.stdout
    assert not (tmp_path / "out" / "consent.jsonl").exists()
    assert run_cli("augment", "consent", *server_options, *out, stdin="y\n").exit_code == 0
    assert '"granted": true' in (tmp_path / "out" / "consent.jsonl").read_text()


def test_ledger_without_requests(tmp_path: Path) -> None:
    assert run_cli("augment", "ledger", "--out", tmp_path).stdout == "Nothing has been sent.\n"


def test_filters_are_those_of_the_library() -> None:
    assert commands._FILTERS == FILTERS


def test_help_imports_no_model_library() -> None:
    code = "import sys, mlx_personal.cli; sys.exit('mlx.core' in sys.modules or 'httpx2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_reasoning_that_uses_up_a_response_says_to_raise_the_maximum(
    command: list[Any], server_options: list[str], fake_server: FakeServer, tmp_path: Path
) -> None:
    consent(server_options, "--out", tmp_path / "out")
    message = {"role": "assistant", "content": None, "reasoning": "hm"}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "length"}]}).encode()
    fake_server.default_fault = Fault(body=body)
    result = run_cli(*command, "--max-tokens", "300")
    assert result.exit_code == 1
    assert "the response was cut off after 1,200 tokens, before an answer" in result.stdout
    assert ": 0 answered, " in result.stdout
    assert "; raise --max-tokens, or let the server answer without reasoning\n" in result.stdout
    assert "incomplete ann: some responses are missing\n" in result.stdout
    assert json.loads(fake_server.received[0].body)["max_tokens"] == 300
    asked = json.loads(run_cli(*command, "--max-tokens", "300", "--json").stdout)["asked"]
    assert asked["message"].endswith("; allow more tokens for a response of the server") and asked["new"] == 0
    fake_server.default_fault = None
    assert list(run_json(*command, "--max-tokens", "300")["learnt"]) == ["ann", "bob"]  # codespell:ignore learnt


def test_fields_that_a_server_refuses_can_be_left_out(command: list[Any], server_options: list[str]) -> None:
    preview = run_json(*command, "--dry-run", "--without-field", "temperature", "--without-field", "seed")
    assert {tuple(json.loads(request["body"])) for request in preview["requests"]} == {
        ("model", "messages", "max_tokens")
    }
    assert "'messages' is not one of" in error_line(*command, "--without-field", "messages")
    assert "'--max-tokens'" in error_line(*command, "--max-tokens", "0")


def test_optional_fields_are_those_of_the_library() -> None:
    assert server_options_module._OPTIONAL_FIELDS == OPTIONAL_FIELDS
