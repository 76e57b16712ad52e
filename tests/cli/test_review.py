"""`review`: verdicts from the keyboard and from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import error_line, run_cli, run_json


def test_review_undoes_and_quits(profile: Path, chats: Path) -> None:
    run_cli("import", chats)
    output = run_cli("review", stdin="u\na\nu\na\nq\n").stdout
    assert "Nothing to undo." in output
    assert "was undone" in output
    assert "1 annotated" in output


def test_an_answer_that_is_not_valid_is_asked_for_again(profile: Path, chats: Path) -> None:
    run_cli("import", chats)
    result = run_cli("review", stdin="r\n<think>hm</think>\nr\nSeven.\nq\n")
    assert result.exit_code == 0
    assert "Nothing was changed: the answers to dialogue 1 are not valid: an empty assistant message." in result.stdout
    assert run_json("buffer", "show", 1)["preferred"][-1]["content"] == "Seven."


def test_last_verdict_of_the_day_can_be_undone(profile: Path, chats: Path) -> None:
    run_cli("import", chats)
    assert run_cli("review", stdin="a\n" * 8).exit_code == 0
    assert run_json("review")["questions"] == []
    undone = run_json("review", "--undo")["undone"]
    assert [q["dialogue"] for q in run_json("review")["questions"]] == [undone]


def test_verdicts_from_a_file_skip_invalid_lines(profile: Path, chats: Path, tmp_path: Path) -> None:
    run_cli("import", chats)
    ids = [q["dialogue"] for q in run_json("review")["questions"]]
    file = tmp_path / "verdicts.jsonl"
    good = {"dialogue": ids[0], "verdict": "rewrite", "answers": ["Seven."]}
    bad = [{"dialogue": 99, "verdict": "accept"}, {"dialogue": ids[1], "verdict": "maybe"}, {"verdict": "skip"}, 3]
    file.write_text("\n".join(json.dumps(line) for line in [good, *bad]) + "\n{\n")
    answer = run_json("review", "--answers", file)
    assert answer["judged"] == 1
    assert [b["where"].rpartition(":")[2] for b in answer["bad_lines"]] == ["2", "3", "4", "5", "6"]
    assert run_json("buffer", "show", ids[0])["preferred"][-1]["content"] == "Seven."
    file.write_text("{\n")
    assert f"{file}:1" in error_line("review", "--answers", file)
    assert "check the name" in error_line("review", "--answers", tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"dialogue": true, "verdict": "accept"}',
        '{"dialogue": 9223372036854775808, "verdict": "accept"}',
        '{"dialogue": -1, "verdict": "accept"}',
        '{"dialogue": 1, "verdict": ["accept"]}',
        '{"dialogue": 1, "verdict": "a\\nb"}',
        '{"dialogue": 1, "verdict": "rewrite", "answers": ["\\ud800"]}',
        '{"dialogue": 1, "verdict": "rewrite", "answers": "yes"}',
    ],
)
def test_invalid_verdict_is_reported_on_one_line(profile: Path, chats: Path, tmp_path: Path, line: str) -> None:
    run_cli("import", chats)
    file = tmp_path / "verdicts.jsonl"
    file.write_text(line)
    assert f"{file}:1: " in error_line("review", "--answers", file)
    assert run_json("status")["annotated"] == 0


def test_verdict_may_contain_any_line_separator(profile: Path, chats: Path, tmp_path: Path) -> None:
    run_cli("import", chats)
    chosen = run_json("review")["questions"][0]["dialogue"]
    file = tmp_path / "verdicts.jsonl"
    verdict = {"dialogue": chosen, "verdict": "rewrite", "answers": ["one\u2028two\u0085three"]}
    file.write_text(json.dumps(verdict, ensure_ascii=False), "utf-8")
    assert run_json("review", "--answers", file)["judged"] == 1
    assert run_json("buffer", "show", chosen)["preferred"][-1]["content"] == "one\u2028two\u0085three"


def test_verdicts_from_a_file_respect_the_daily_limit(profile: Path, chats: Path, tmp_path: Path) -> None:
    run_cli("import", chats)
    settings = profile / "config.toml"
    settings.write_text(settings.read_text().replace("questions_per_day = 9", "questions_per_day = 2"))
    ids = [b["dialogue"] for b in run_json("buffer", "list")]
    file = tmp_path / "verdicts.jsonl"
    file.write_text("\n".join(json.dumps({"dialogue": i, "verdict": "accept"}) for i in ids))
    answer = run_json("review", "--answers", file)
    assert (answer["judged"], len(answer["bad_lines"])) == (2, 6)
    assert "exceeds the daily limit of 2 annotations" in answer["bad_lines"][0]["reason"]


def test_several_answers_of_a_dialogue_can_be_rewritten(profile: Path, tmp_path: Path) -> None:
    turns = [{"role": r, "content": f"{r} {i}"} for i in range(3) for r in ("user", "assistant")]
    (tmp_path / "chat.jsonl").write_text(json.dumps(turns))
    run_cli("import", tmp_path / "chat.jsonl")
    assert "1 annotated" in run_cli("review", stdin="r\n1\nFirst.\n3\nThird.\n\n").stdout
    preferred = run_json("buffer", "show", 1)["preferred"]
    assert [m["content"] for m in preferred if m["role"] == "assistant"] == ["First.", "assistant 1", "Third."]


def test_review_refuses_input_that_is_not_utf8(profile: Path, chats: Path) -> None:
    run_cli("import", chats)
    result = run_cli("review", stdin=b"r\ncaf\xe9\n")
    assert (result.exit_code, "standard input: not UTF-8 text" in result.stderr) == (2, True)
