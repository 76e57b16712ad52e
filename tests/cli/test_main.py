"""The main command: help, completion, and errors on one line with their exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_personal.cli.main import COMMANDS, main
from tests.support.cli import dialogue_line, error_line, run_cli, run_json


def test_usage_errors_are_on_one_line(home: Path) -> None:
    for arguments in (["--nosuch", "status"], ["--profile"], ["nosuch"], ["buffer", "show", "x"]):
        error_line(*arguments)


@pytest.mark.parametrize(
    "command", [("buffer", "show"), ("buffer", "why"), ("adapters", "show"), ("adapters", "promote")]
)
@pytest.mark.parametrize("number", [0, 2**63])
def test_numbers_that_the_database_cannot_store_are_refused(
    profile: Path, command: tuple[str, str], number: int
) -> None:
    assert "is not in the range" in error_line(*command, number)


def test_profile_in_use_is_reported_on_one_line(profile: Path, chats: Path) -> None:
    from mlx_personal.profile import Store

    store = Store(profile)
    try:
        assert "in use by another process" in error_line("import", chats)
        assert run_cli("status").exit_code == 0, "reading needs no lock"
    finally:
        store.close()
    assert run_cli("import", chats).exit_code == 0


def test_unwritable_home_is_reported_on_one_line(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLX_PERSONAL_HOME", str(tmp_path / "file" / "home"))
    error_line("init", "--model", tiny_model_folder)
    if os.path.exists("/proc/self/status"):
        monkeypatch.setenv("MLX_PERSONAL_HOME", "/proc/mlx-personal")
        error_line("init", "--model", tiny_model_folder)


def test_full_disk_is_reported_and_loses_nothing_stored(
    profile: Path, chats: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_cli("import", chats)
    from mlx_personal.storage import database

    real = database.Database.__init__

    def small(self: Any, folder: Any, write: Any, schema: Any) -> None:
        real(self, folder, write, schema)
        self.fetch_all("PRAGMA max_page_count = 1")

    more = tmp_path / "more.jsonl"
    more.write_text("\n".join(dialogue_line(f"Big {i}?", "x" * 9000) for i in range(50)))
    with monkeypatch.context() as patched:
        patched.setattr(database.Database, "__init__", small)
        assert "the disk is full" in error_line("import", more)
    assert run_json("status")["received"] == 30


def test_missing_profile_is_reported_with_its_remedy(home: Path) -> None:
    for command in (["status"], ["import", "x"], ["review"], ["train"], ["chat", "hi"], ["run"], ["adapters", "list"]):
        assert "run `mlx-personal init" in (line := error_line(*command)) and line.endswith("` first")


def test_unknown_setting_is_reported_on_one_line(profile: Path) -> None:
    (profile / "config.toml").write_text("[finetune]\nrang = 2\n")
    assert "did you mean 'rank'" in error_line("status")


def test_errors_are_printed_as_json_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mlx-personal", "status", "--json"])
    result = run_cli("status", "--json")
    assert result.exit_code == 2
    assert "init" in json.loads(result.stdout)["error"]


@pytest.mark.parametrize(("command", "exit_code"), [("chat", 0), ("review", 1)])
def test_closed_standard_input_is_read_as_empty(
    command: str, exit_code: int, profile: Path, chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cli("import", chats)
    monkeypatch.setattr(sys, "stdin", None)  # as Python sets it if its descriptor is closed
    with pytest.raises(SystemExit) as exit:
        main([command])
    assert exit.value.code == exit_code


def test_help_names_every_command() -> None:
    result = run_cli("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"  {name} " in result.stdout


def test_shells_complete_commands() -> None:
    environment = {
        **os.environ,
        "_MLX_PERSONAL_COMPLETE": "bash_complete",
        "COMP_WORDS": "mlx-personal ad",
        "COMP_CWORD": "1",
    }
    code = "from mlx_personal.cli import main; main(prog_name='mlx-personal')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "plain,adapters" in done.stdout
