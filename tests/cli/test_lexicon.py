"""`lexicon`: the domains in use, and suggestions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import dialogue_line, error_line, run_cli, run_json


def test_broken_lexicon_is_reported_on_one_line(profile: Path, chats: Path) -> None:
    (profile / "lexicons").mkdir()
    (profile / "lexicons" / "sailing.txt").write_bytes(b"\xff")
    assert "sailing.txt" in error_line("import", chats)
    (profile / "lexicons" / "sailing.txt").write_text("# mine\nboat sail\n")
    listed = {row["domain"]: row["words"] for row in run_json("lexicon", "list")}
    assert listed["sailing"] == 2
    assert len(listed) > 20


def test_suggested_lexicons_are_used_once_written(profile: Path, tmp_path: Path) -> None:
    topics = {
        "segla": ["båt", "segel", "vind", "hamn", "mast", "brygga"],
        "baka": ["deg", "jäst", "ugn", "bröd", "mjöl", "smör"],
        "cykla": ["sadel", "kedja", "däck", "broms", "pedal", "hjälm"],
        "odla": ["frö", "jord", "kruka", "vatten", "spade", "blomma"],
    }
    lines = []
    for i in range(80):
        topic = list(topics.values())[i % 4]
        words = [topic[(i // 4 + j) % 6] for j in range(4)]
        lines.append(
            dialogue_line(f"Hur är det med {' och '.join(words)} nr {i}?", f"Ta {words[0]} först, sedan {words[1]}.")
        )
    (tmp_path / "svenska.jsonl").write_text("\n".join(lines))
    run_cli("import", tmp_path / "svenska.jsonl")
    suggestions = run_json("lexicon", "suggest", "--domains", 4, "--write")
    assert len(suggestions) == 4
    for row in suggestions:
        shared_words = [len(set(row["words"]) & set(words)) for words in topics.values()]
        assert sorted(shared_words)[:3] == [0, 0, 0], "a domain must not mix two topics"
    assert run_json("lexicon", "suggest", "--domains", 4, "--write") == [], "what was written is not suggested again"
    listed = {row["domain"]: row["bins"] for row in run_json("lexicon", "list")}
    assert sum(listed[row["domain"]] for row in suggestions) == 8


def test_suggestion_never_uses_an_existing_name(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_personal import scoring

    suggestions = [
        scoring.Suggestion(name, ("boat", "sail"), 9) for name in ("other", "Boat_Sail", "music", "boat_sail")
    ]
    monkeypatch.setattr(scoring, "suggest_lexicons", lambda texts, max_domains: suggestions)
    folder = profile / "lexicons"
    folder.mkdir()
    (folder / "boat_sail.txt").write_text("edited\n")
    names = ["other_2", "Boat_Sail_2", "music_2", "boat_sail_3"]
    assert [row["domain"] for row in run_json("lexicon", "suggest", "--write")] == names
    assert (folder / "boat_sail.txt").read_text() == "edited\n"
    assert {p.stem for p in folder.iterdir()} == {*names, "boat_sail"}


def test_too_little_text_for_a_suggestion_is_reported_on_one_line(profile: Path) -> None:
    error_line("lexicon", "suggest")
