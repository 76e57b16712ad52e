"""A full disk is never reported as invalid input: the command stops, says what was stored, and can be repeated."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import jobs
from mlx_personal.errors import DISK_HINT, StorageError
from mlx_personal.profile.store import PROFILE
from mlx_personal.storage.database import Database
from tests.cli.test_augment import LENIENT, consent
from tests.support.augmentation import InProcessJobs
from tests.support.cli import dialogue_line, error_line, run_cli, run_json
from tests.support.fake_server import FakeServer

# A page of SQLite has 4,096 bytes, so each of these verdicts needs at least one more.
LONG_ANSWER = "x" * 5000


@contextlib.contextmanager
def full_disk(free_pages: int) -> Iterator[None]:
    """Let the databases that are opened inside the `with` block grow by at most a number of pages."""
    opened = Database.__init__

    def open_limited(self: Database, *arguments: Any) -> None:
        opened(self, *arguments)
        self.fetch_all(f"PRAGMA max_page_count = {self.fetch_int('PRAGMA page_count') + free_pages}")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Database, "__init__", open_limited)
        yield


@pytest.fixture
def verdicts(profile: Path, chats: Path, tmp_path: Path) -> Path:
    """A file with a verdict on each of the eight questions."""
    run_cli("import", chats)
    file = tmp_path / "verdicts.jsonl"
    lines = [
        {"dialogue": question["dialogue"], "verdict": "rewrite", "answers": [f"{question['dialogue']} {LONG_ANSWER}"]}
        for question in run_json("review")["questions"]
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def test_verdicts_of_a_file_are_counted_and_can_be_given_again(verdicts: Path) -> None:
    with full_disk(7):
        line = error_line("review", "--answers", verdicts)
    assert "the disk is full" in line and DISK_HINT in line and "fix the line" not in line
    assert "verdicts.jsonl" not in line, "the file with the verdicts is not at fault"
    stored = int(line.split(" verdicts were recorded")[0].rpartition(" ")[2])
    assert 0 < stored < 8 and run_json("status")["annotated"] == stored
    assert run_json("review", "--answers", verdicts)["judged"] == 8, "within the daily limit of 9"
    assert run_json("status")["annotated"] == 8


def test_no_verdict_fits(verdicts: Path) -> None:
    with full_disk(0):
        line = error_line("review", "--answers", verdicts)
    assert "the disk is full" in line and "no verdict was recorded" in line and DISK_HINT in line
    assert run_json("status")["annotated"] == 0


def test_a_verdict_from_the_keyboard(verdicts: Path) -> None:
    with full_disk(4):
        result = run_cli("review", stdin=f"r\n{LONG_ANSWER}\n" * 8)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert "the disk is full" in line and "recorded" in line


def test_invalid_lines_are_still_skipped(verdicts: Path) -> None:
    verdicts.write_text(verdicts.read_text() + '\n{"dialogue": 99, "verdict": "accept"}\n')
    answer = run_json("review", "--answers", verdicts)
    assert (answer["judged"], len(answer["bad_lines"])) == (8, 1)


def test_a_damaged_row_is_not_an_invalid_line(verdicts: Path, profile: Path) -> None:
    first = json.loads(verdicts.read_text().splitlines()[0])["dialogue"]
    database = Database(profile, True, PROFILE)
    with database.transaction() as connection:
        connection.execute("UPDATE dialogues SET messages = '{' WHERE id = ?", (first,))
    database.close()
    line = error_line("review", "--answers", verdicts)
    assert "the profile's database is damaged" in line and "no verdict was recorded" in line


def test_responses_of_a_server(profile: Path, chats: Path, fake_server: FakeServer) -> None:
    run_cli("import", chats)
    run_cli("review", stdin="a\n" * 8)
    options = ["--server", fake_server.url, "--server-model", "cloud"]
    consent(options)
    fake_server.answer = lambda prompt: json.dumps({"text": "How?", "answer": LONG_ANSWER})
    command = ["augment", *options, "--k", "12", "--demonstrations", "1", *LENIENT, "--concurrency", "1"]
    with full_disk(9):
        line = error_line(*command)
    assert "the disk is full" in line and "of 12 responses are stored" in line and DISK_HINT in line
    assert len(fake_server.received) < 12, "no request is sent whose response cannot be stored"
    assert run_cli(*command).exit_code == 0


def test_a_job_on_a_full_disk_stops_the_others(
    tmp_path: Path,
    fake_server: FakeServer,
    in_process_jobs: InProcessJobs,
    tiny_model_folder: Path,
) -> None:
    users, out = tmp_path / "users", tmp_path / "out"
    users.mkdir()
    for name in ("ann", "bob", "cyd"):
        (users / f"{name}.jsonl").write_text(
            "\n".join(dialogue_line(f"{name} asks about {noun}?", f"Take {noun}.") for noun in ("soup", "bread"))
        )
    options = ["--server", fake_server.url, "--server-model", "cloud"]
    consent(options, "--out", out)
    run = ["augment", *options, "--users", users, "--out", out, "--model", tiny_model_folder, *LENIENT]
    run += ["--k", "1", "--demonstrations", "1", "--epochs", "1", "--rank", "2"]

    def fail(function: Any, job: jobs.Job) -> str | None:
        if (function.__name__, job.key) == ("train", "bob"):
            raise StorageError("the disk is full", tmp_path, DISK_HINT)
        return None

    in_process_jobs.fails = fail
    assert "the disk is full" in error_line(*run)
    in_process_jobs.fails = lambda function, job: None
    again = run_json(*run)
    assert list(again["found"]) == ["ann"] and not again["failed"]
    assert len(fake_server.received) == 3
