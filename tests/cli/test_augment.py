"""The command `augment` as its users meet it: consent, a preview, a run, what came of it, and wrong input."""

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
from mlx_personal.cli import augment as commands
from tests.cli.test_cli import as_json, line_of, refused, run
from tests.support.augmentation import NOUNS
from tests.support.fake_server import Fault

QUICK = ["--k", "3", "--demonstrations", "2", "--epochs", "1", "--rank", "2", "--seed", "5"]
# A random model knows no style, and finds nothing likely.
LENIENT = ["--off", "style", "--off", "perplexity", "--off", "label"]


@pytest.fixture
def users(tmp_path: Path) -> Any:
    folder = tmp_path / "users"
    folder.mkdir()
    for name in ("ann", "bob"):
        lines = [line_of(f"{name} asks about {noun} {i}", f"Take {noun}.") for i, noun in enumerate(NOUNS[:4])]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def of_server(fake: Any) -> Any:
    return ["--server", fake.url, "--server-model", "cloud"]


@pytest.fixture
def command(users: Any, tmp_path: Path, of_server: Any, tiny_model_folder: Path, here: Any) -> Any:
    """The arguments of a run of two users."""
    out = tmp_path / "out"
    return ["augment", *of_server, "--users", users, "--out", out, "--model", tiny_model_folder, *QUICK, *LENIENT]


def consent(of_server: Any, *more: Any) -> None:
    assert run("augment", "consent", *of_server, *more, "--yes").exit_code == 0


def test_users_from_consent_to_adapters_and_the_ledger(command: Any, of_server: Any, fake: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = refused(*command)
    assert "nothing is sent to" in line and f"--out {out}" in line and not fake.received
    # The command that the error names, as a shell would read it.
    assert run(*shlex.split(line.split("`")[1])[1:], "--yes").exit_code == 0
    assert out.stat().st_mode & 0o777 == 0o700
    shown = run(*command)
    assert shown.exit_code == 0, shown.output
    assert "6 answers are new, 0 were there already, 90 tokens in all." in shown.stdout
    assert "2 adapters are new" in shown.stdout and "ann: 4 records, 4 sent," in shown.stdout
    assert (out / "adapters" / "bob" / "adapters.safetensors").exists()
    again = as_json(*command)
    assert list(again["found"]) == ["ann", "bob"] and not again["learnt"] and again["asked"] is None
    assert len(fake.received) == 6
    told = as_json("augment", "ledger", "--out", out)
    size = sum(len(received.body) for received in fake.received)
    assert told == {"attempts": 6, "bytes": size, "unanswered": 0, "record": str(out / "ledger.jsonl")}
    assert (
        f"{size:,} bytes have left, or were about to, in 6 attempts.\n" in run("augment", "ledger", "--out", out).stdout
    )
    assert run("augment", "consent", *of_server, "--out", out, "--withdraw").exit_code == 0
    assert "without your consent" in refused(*command)


def test_a_dry_run_prints_exactly_what_is_sent_later_and_needs_no_consent(
    command: Any, of_server: Any, fake: Any, tmp_path: Path
) -> None:
    shown = as_json(*command, "--dry-run")
    text = run(*command, "--dry-run").stdout
    assert not fake.received and not (tmp_path / "out").exists()
    consent(of_server, "--out", tmp_path / "out")
    as_json(*command)
    sent = sorted(received.body.decode() for received in fake.received)
    assert sorted(request["body"] for request in shown["requests"]) == sent
    assert shown["bytes"] == sum(len(body.encode()) for body in sent)
    assert sorted(line.partition(": ")[2] for line in text.splitlines()[:-1]) == sent
    assert text.splitlines()[-1] == f"6 requests, {shown['bytes']:,} bytes; nothing was sent."


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
def test_a_dry_run_connects_to_nothing(command: Any, fake: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, *map(str, command), "--dry-run", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["requests"]) == 6 and not fake.received


def test_the_profiles_owner_from_consent_to_synthetic_sets(
    tmp_path: Path, of_server: Any, fake: Any, tiny_model_folder: Path
) -> None:
    assert run("init", "--model", tiny_model_folder).exit_code == 0
    file = tmp_path / "chats.jsonl"
    lines = [line_of(f"How is the {noun} {i}?", f"The {noun} is {i}.") for i, noun in enumerate(NOUNS)]
    file.write_text("\n".join(lines))
    as_json("import", file)
    questions = as_json("review")["questions"]
    verdicts = tmp_path / "verdicts.jsonl"
    verdicts.write_text("\n".join(json.dumps({"dialogue": q["dialogue"], "verdict": "accept"}) for q in questions))
    assert run("review", "--answers", verdicts).exit_code == 0
    command = ["augment", *of_server, "--k", "3", "--demonstrations", "2", *LENIENT]
    assert "nothing is sent" in refused(*command)
    consent(of_server)
    shown = as_json(*command, "--dry-run")
    done = as_json(*command)
    assert done["kept"] > 0 and done["asked"]["new"] == 3 and "answers" not in done["asked"]
    assert sorted(r["body"] for r in shown["requests"]) == sorted(r.body.decode() for r in fake.received)
    assert "synthetic sets were there already" in run(*command).stdout
    assert as_json("augment", "ledger")["attempts"] == 3
    assert as_json("augment", "consent", *of_server, "--withdraw")["granted"] is False
    assert "nothing is sent" in refused(*command)


def test_what_failed_or_was_left_makes_the_answer_no(
    command: Any, of_server: Any, fake: Any, here: Any, tmp_path: Path
) -> None:
    consent(of_server, "--out", tmp_path / "out")
    here.fails = lambda function, job: "out of breath" if (function, job.key) == (user_jobs.learn, "ann") else None
    shown = run(*command)
    assert shown.exit_code == 1 and "failed ann: out of breath" in shown.stdout and "1 adapters are new" in shown.stdout


def test_a_dead_server_leaves_users_for_the_next_run(
    command: Any, of_server: Any, fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_personal.augmentation import server

    monkeypatch.setattr(server.Server.__init__, "__defaults__", (None, 0.8, 512, 120.0, 1, 0.0))
    consent(of_server, "--out", tmp_path / "out")
    fake.always = Fault(status=500)
    shown = run(*command)
    assert shown.exit_code == 1
    assert "left ann: some answers are missing; run it again" in shown.stdout
    assert "does not answer (it says HTTP 500)" in shown.stdout
    fake.always = None
    assert list(as_json(*command)["learnt"]) == ["ann", "bob"]


def test_users_that_are_left_out_and_bad_lines_are_told(
    command: Any, of_server: Any, users: Any, tmp_path: Path
) -> None:
    consent(of_server, "--out", tmp_path / "out")
    (users / "cyd.jsonl").write_text(line_of("one", "record") + "\n{\n")
    shown = run(*command)
    assert shown.exit_code == 0
    assert "left out cyd: one record, 1 skipped: a bad line" in shown.stdout and "cyd.jsonl:2: not JSON" in shown.stdout
    data = as_json(*command)
    assert data["left_out"] == {"cyd": "one record, 1 skipped: a bad line"} and len(data["bad_lines"]) == 1


def test_records_that_are_too_long_to_send_are_told(command: Any, of_server: Any, fake: Any, tmp_path: Path) -> None:
    consent(of_server, "--out", tmp_path / "out")
    shown = run(*command, "--tokens", "1")
    assert shown.exit_code == 0 and not fake.received
    assert "ann: 4 records, 0 sent (4 too long), 0 synthetic ones kept of 0" in shown.stdout


def test_the_key_is_read_from_the_environment_and_shown_nowhere(
    command: Any, of_server: Any, fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consent(of_server, "--out", tmp_path / "out")
    fake.key = "sk-secret"
    assert "wants a key" in refused(*command)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")  # of another server, for all anybody knows
    assert "wants a key" in refused(*command)
    assert "NO_SUCH_KEY: this environment variable is empty or not set" in refused(*command, "--key-env", "NO_SUCH_KEY")
    monkeypatch.setenv("MY_KEY", "sk-wrong")
    assert "refuses the key" in refused(*command, "--key-env", "MY_KEY")
    monkeypatch.setenv("MY_KEY", "sk-secret")
    shown = run(*command, "--key-env", "MY_KEY")
    assert shown.exit_code == 0 and "sk-" not in shown.output
    written = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert not any(b"sk-secret" in file.read_bytes() or b"sk-wrong" in file.read_bytes() for file in written)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--server", "http://example.org/v1"], "personal text does not go over plain http"),
        (["--server", "example.org"], "is no http or https address"),
        (["--server-model", " "], "the server's model has no name"),
        (["--users", "nowhere"], "no such file or folder"),
        (["--k", "0"], "'--k'"),
        (["--k", "99999"], "k is 99999; it must lie in 1..10,000"),
        (["--off", "taste"], "'taste' is not one of"),
        (["--synthetic-weight", "2"], "'--synthetic-weight'"),
        (["--model", "no/such/model/here"], "no such model folder"),
    ],
)
def test_wrong_input_is_one_line(change: list[str], says: str, command: Any, of_server: Any, tmp_path: Path) -> None:
    consent(of_server, "--out", tmp_path / "out")
    assert says in refused(*command, *change)


def test_options_that_do_not_belong_together_are_refused(of_server: Any, users: Any) -> None:
    assert "name the --server and its --server-model" in refused("augment", "--server-model", "cloud")
    assert "name the folder that gets the adapters: --out" in refused("augment", *of_server, "--users", users)
    assert "--out is the folder of the users" in refused("augment", *of_server, "--users", users, "--out", users)
    assert "--epochs is for --users" in refused("augment", *of_server, "--epochs", "2")
    assert "there is no profile here yet" in refused("augment", *of_server)


def test_consent_is_asked_for_at_a_terminal_only(
    of_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--out", tmp_path / "out"]
    assert "nobody is here to be asked" in refused("augment", "consent", *of_server, *out)

    class AtATerminal:
        @staticmethod
        def isatty() -> bool:
            return True

    monkeypatch.setattr(commands, "sys", type("Sys", (), {"stdin": AtATerminal}))
    no = run("augment", "consent", *of_server, *out, stdin="n\n")
    assert no.exit_code == 1 and "Do you consent?" in no.stdout and "cannot be called back" in no.stdout
    assert not (tmp_path / "out" / "consent.jsonl").exists()
    assert run("augment", "consent", *of_server, *out, stdin="y\n").exit_code == 0
    assert '"granted": true' in (tmp_path / "out" / "consent.jsonl").read_text()


def test_nothing_has_left_where_nothing_was_sent(tmp_path: Path) -> None:
    assert run("augment", "ledger", "--out", tmp_path).stdout == "Nothing has left.\n"


def test_the_filters_are_those_of_the_room() -> None:
    assert commands._FILTERS == FILTERS


def test_help_does_not_wait_for_the_model_libraries() -> None:
    code = "import sys, mlx_personal.cli; sys.exit('mlx.core' in sys.modules or 'httpx2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
