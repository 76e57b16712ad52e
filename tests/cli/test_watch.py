"""`watch` and `run`: folders are remembered, and what is new in them is imported before the other steps."""

from __future__ import annotations

from pathlib import Path

from tests.support.cli import dialogue_line, error_line, run_cli, run_json


def test_run_imports_what_is_new_in_a_watched_folder(profile: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    (folder / "1.jsonl").write_text(dialogue_line("How do I cook soup?", "Slowly."))
    assert run_json("watch", folder) == {"path": str(folder), "format": ""}
    ran = run_json("run")["done"]
    brought = {"changed": 1, "import": 1, "new": 1, "continued": 0, "skipped": []}
    assert ran["watch"] == [{"path": str(folder), **brought, "problem": ""}]
    assert ran["score"]["stored"] == 1
    assert "watch" not in run_json("run")["done"]
    [row] = run_json("watch", "list")
    assert (row["path"], row["format"], row["files"]) == (str(folder), "", 1)
    (folder / "2.jsonl").write_text(dialogue_line("And bread?", "In the oven."))
    (folder / "3.jsonl").write_text(dialogue_line("And tea?", "With hot water.") + "\n{broken")
    lines = run_cli("run").stdout.splitlines()
    assert lines[0] == f"{folder}: 2 new and 0 continued conversations imported from 2 changed files."
    assert lines[1].startswith("1 skipped: not JSON (") and lines[1].endswith(f" ({folder / '3.jsonl'}:2)")


def test_a_folder_is_forgotten_and_what_it_brought_stays(profile: Path, chats: Path) -> None:
    run_json("watch", "add", chats, "--format", "training-set")
    run_json("run")
    assert run_json("watch", "remove", chats) == {"removed": str(chats)}
    assert run_json("watch", "list") == []
    assert "No folder is watched" in run_cli("watch", "list").stdout
    assert run_json("status")["received"] == 30
    assert "is not watched" in error_line("watch", "remove", chats)


def test_a_folder_that_is_gone_is_reported_by_run(profile: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    run_json("watch", folder)
    assert "never" in run_cli("watch", "list").stdout
    folder.rmdir()
    result = run_cli("run")
    assert result.exit_code == 0 and "Not imported:" in result.stdout
    assert "nowhere" in error_line("watch", tmp_path / "nowhere")
