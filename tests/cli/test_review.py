"""`review`: verdicts from the keyboard and from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import error_line, run_cli, run_json


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A ChatGPT export: thanks, a correction, a thumb down, and a conversation without a verdict."""
    conversations = [
        conversation("a", "How do I cook soup?", "Half an hour.", "Thanks, that works!"),
        conversation("b", "How long do eggs boil?", "It depends on much.", "no, shorter", "Seven minutes."),
        conversation("c", "Where is the bus?", "At home."),
        conversation("d", "What do I pack?", "A map and a coat."),
    ]
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "conversations.json").write_text(json.dumps(conversations))
    (folder / "message_feedback.json").write_text(json.dumps([{"message_id": "c1", "rating": "thumbs_down"}]))
    return folder


def conversation(name: str, *texts: str) -> dict[str, object]:
    nodes = {
        f"{name}{number}": {
            "id": f"{name}{number}",
            "parent": f"{name}{number - 1}" if number else None,
            "children": [f"{name}{number + 1}"] if number + 1 < len(texts) else [],
            "message": {
                "author": {"role": ("user", "assistant")[number % 2]},
                "content": {"content_type": "text", "parts": [text]},
            },
        }
        for number, text in enumerate(texts)
    }
    return {"conversation_id": name, "current_node": f"{name}{len(texts) - 1}", "mapping": nodes}


def test_a_proposal_is_shown_with_its_evidence_and_taken_with_one_key(profile: Path, export: Path) -> None:
    run_cli("import", export)
    asked = run_json("review")["questions"]
    assert [question["proposal"] and question["proposal"]["verdict"] for question in asked] == [
        "accept",
        "accept",
        "skip",
        None,
    ]
    assert asked[1]["proposal"] == {
        "verdict": "accept",
        "context_answers": [1],
        "left_out_answers": [],
        "reasons": [{"answer": 1, "rating": "bad", "source": "correction", "evidence": 'the next turn: "no, shorter"'}],
    }
    output = run_cli("review", stdin="p\np\np\np\nq\n").stdout
    assert 'answer 1: good, by thanks: the next turn: "Thanks, that works!"' in output
    assert "proposal accept, answer 1 as context only" in output
    assert "assistant 1 It depends on much." in output and "assistant 2 Seven minutes." in output
    assert "proposal skip" in output and "answer 1: bad, by thumbs: rated bad in the app" in output
    assert output.count("take the [p]roposal") == 3, "not for the last one, where p is no key"
    assert "3 annotated; 1 question is open" in output
    assert run_json("status")["inferred"]["taken"] == 3
    shown = run_json("buffer", "show", 2)
    assert (shown["verdict"], shown["verdict_origin"]) == ("accept", "proposal")
    assert [message.get("weight", 1) for message in shown["preferred"]] == [1, 0, 1, 1]
    text = run_cli("buffer", "show", 2).stdout
    assert "verdict: accept, as proposed" in text and "assistant (context only) It depends on much." in text


def test_a_proposal_can_be_taken_from_a_file(profile: Path, export: Path, tmp_path: Path) -> None:
    run_cli("import", export)
    file = tmp_path / "verdicts.jsonl"
    file.write_text("\n".join(json.dumps({"dialogue": i, "verdict": "take"}) for i in (1, 4)))
    answer = run_json("review", "--answers", file)
    assert answer["judged"] == 1
    assert answer["bad_lines"] == [{"where": f"{file}:2", "reason": "nothing is proposed for dialogue 4"}]


def test_verdicts_are_accepted_without_asking_if_this_is_the_setting(profile: Path, export: Path) -> None:
    settings = profile / "config.toml"
    settings.write_text(settings.read_text().replace("questions_per_day = 9", 'inferred = "accept"'))
    result = run_json("import", export)
    assert result["accepted"] == 3
    assert [question["dialogue"] for question in run_json("review")["questions"]] == [4]
    assert "verdict: skip, inferred from an import without asking" in run_cli("buffer", "show", 3).stdout
    assert "0 proposals open, 0 taken; 2 annotated without asking" in " ".join(run_cli("status").stdout.split())
    assert run_json("review", "--undo")["undone"] == 3
    assert [question["dialogue"] for question in run_json("review")["questions"]] == [3, 4]


def test_nothing_is_proposed_if_this_is_the_setting(profile: Path, export: Path) -> None:
    settings = profile / "config.toml"
    settings.write_text(settings.read_text().replace("questions_per_day = 9", 'inferred = "off"'))
    run_cli("import", export)
    assert [question["proposal"] for question in run_json("review")["questions"]] == [None] * 4
    settings.write_text(settings.read_text().replace('"off"', '"ask"'))
    assert "inferred is 'ask'; it must be one of propose, accept, off" in error_line("review")


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
    chats.write_text("\n".join(chats.read_text().splitlines()[:2]))
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
