"""`imports`: list, show and take back."""

from __future__ import annotations

from pathlib import Path

from tests.support.cli import dialogue_line, error_line, run_cli, run_json


def test_an_import_is_listed_shown_and_taken_back(profile: Path, chats: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(dialogue_line("Where is my coat?", "In the hall."))
    assert run_json("import", other)["import"] == 1
    assert run_json("import", chats)["import"] == 2
    listed = run_json("imports", "list")
    assert [(row["id"], row["paths"], row["dialogues"]) for row in listed] == [
        (1, [str(other)], 1),
        (2, [str(chats)], 30),
    ]
    shown = run_json("imports", "show", 2)
    assert shown["summary"]["apps"]["training-set"]["new"] == 30
    assert (shown["dependents"]["dialogues"], shown["dependents"]["selected"]) == (30, 8)
    undone = run_json("imports", "undo", 2)
    assert undone == {"undone": 2, "deleted": 30, "shortened": 0, "freed_bins": 8, "adapters": []}
    assert run_json("status")["received"] == 1
    assert "import 2 was already taken back" in error_line("imports", "undo", 2)
    assert "taken back" in run_cli("imports", "list").stdout
    assert "there is no import 9; `mlx-personal imports list` lists the imports" in error_line("imports", "show", 9)


def test_free_bins_are_filled_by_later_dialogues(profile: Path, chats: Path) -> None:
    run_json("import", chats)
    run_json("imports", "undo", 1)
    assert run_json("buffer", "list") == []
    assert run_json("import", chats)["decisions"]["stored"] == 8


def test_verdicts_on_an_import_need_a_yes(profile: Path, chats: Path) -> None:
    run_json("import", chats)
    run_cli("review", stdin="a\n" * 2)
    line = error_line("imports", "undo", 1)
    assert "2 verdicts, 0 synthetic dialogues and 0 adapters depend on it; confirm it with --yes" in line
    assert run_json("status")["annotated"] == 2
    assert run_json("imports", "undo", 1, "--yes")["deleted"] == 30
    assert run_json("status")["annotated"] == 0


def test_standard_input_is_named(profile: Path) -> None:
    line = dialogue_line("Where is my coat?", "In the hall.")
    result = run_cli("import", "-", stdin=line)
    assert "1 question is open; answer with" in result.stdout
    assert run_json("imports", "list")[0]["paths"] == ["standard input"]
    assert "standard input" in run_cli("imports", "list").stdout
    assert run_json("buffer", "show", 1)["source"] == "import:standard input"
    shown = " ".join(run_cli("imports", "show", 1).stdout.split())
    assert "1 dialogue, 1 in the buffer; 0 verdicts, 0 synthetic dialogues and 0 adapters." in shown
    assert "1 dialogue deleted, 0 shortened, 1 bin freed, 0 verdicts deleted." in run_cli("imports", "undo", 1).stdout
