"""`import`: invalid lines and files, and safe printing of what was imported."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.cli import dialogue_line, error_line, run_cli, run_json


def test_dialogues_are_printed_without_markup_or_control_characters(profile: Path, tmp_path: Path) -> None:
    said = "[red]Fire[/] [/nothing] :cat: \x1b[2J\x9b2J\rand\tgone"
    (tmp_path / "[b]:cat:.jsonl").write_text(dialogue_line(said, "Take [this]."))
    printed = "[red]Fire[/] [/nothing] :cat: \ufffd[2J\ufffd2J\ufffdand"
    assert run_cli("import", tmp_path / "[b]:cat:.jsonl").exit_code == 0
    output = run_cli("buffer", "show", 1).stdout
    assert printed in output
    assert "from import:[b]:cat:.jsonl" in output
    assert printed in run_cli("review", stdin="q\n").stdout
    assert "[red]Fire[/]" in run_cli("buffer", "list").stdout
    assert run_json("buffer", "show", 1)["messages"][0]["content"] == said
    (profile / "lexicons").mkdir()
    (profile / "lexicons" / "[b]x[b].txt").write_text("boat\n")
    assert "[b]x[b]" in run_cli("lexicon", "list").stdout


def test_file_names_may_not_be_utf8(profile: Path, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    try:
        file.write_text(dialogue_line("Good?", "Good.") + "\n{\n")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert "caf\\udce9.jsonl:2" in run_cli("import", file).stdout
    assert run_json("buffer", "show", 1)["source"] == "import:caf\\udce9.jsonl"
    assert "caf\\udce9" in error_line("import", tmp_path / os.fsdecode(b"no-caf\xe9.jsonl"))


def test_invalid_lines_are_reported_and_the_others_imported(profile: Path, chats: Path, tmp_path: Path) -> None:
    user, assistant = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    bad = [
        "{broken",
        json.dumps({"messages": [assistant, user]}),
        json.dumps({"messages": []}),
        json.dumps({"messages": [user]}),
        json.dumps({"messages": [{"role": "user", "content": "x" * 1_000_000}, assistant]}),
        '{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "b"}]}',
        json.dumps({"messages": [{"role": "user", "content": "a\0b"}, assistant]}),
        json.dumps({"text": "no messages"}),
        json.dumps([{"role": "a\nb", "content": 3}, assistant]),
        json.dumps([{"role": "\ud800", "content": "x"}, assistant]),
        json.dumps([{"role": "r" * 3000, "content": "x"}, assistant]),
        "[" * 100_000,
        "3",
    ]
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("\n".join([*bad, dialogue_line("Good?", "Good.")]))
    answer = run_json("import", mixed)
    assert answer["read"] == 1
    assert [b["where"] for b in answer["bad_lines"]] == [f"{mixed}:{n}" for n in range(1, len(bad) + 1)]
    assert all("\n" not in b["reason"] for b in answer["bad_lines"])
    report = run_cli("import", mixed).stdout.splitlines()
    assert [line.split(": ")[0] for line in report[: len(bad)]] == [
        f"skipped {b['where']}" for b in answer["bad_lines"]
    ]
    assert report[len(bad)] == f"1 dialogues read, 0 of them new, {len(bad)} invalid lines skipped."
    only_bad = tmp_path / "bad.jsonl"
    only_bad.write_text("\n".join(bad))
    assert f"{only_bad}:1" in error_line("import", only_bad)
    assert run_json("status")["received"] == 1


def test_unreadable_files_are_reported_on_one_line(profile: Path, tmp_path: Path) -> None:
    assert str(tmp_path / "none.jsonl") in error_line("import", tmp_path / "none.jsonl")
    assert "is a folder" in error_line("import", tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    assert "no dialogue" in error_line("import", tmp_path / "empty.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in error_line("import", tmp_path / "binary.jsonl")
