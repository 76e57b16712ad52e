"""`synthesize --questions`, `run` and `review`: questions that the model proposes, and the owner's verdicts on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mlx_personal.models import LanguageModel
from mlx_personal.profile import Store
from tests.support.cli import error_line, run_cli, run_json

NEW = [
    "When is the best time to prune roses?",
    "What should you pack for a week in Norway?",
    "Which paint is right for a garden fence?",
    "How can I keep basil alive in the kitchen?",
    "Where can I learn to play the cello?",
    "Who repairs old radios nowadays?",
]


@pytest.fixture
def reviewed(profile: Path, chats: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A profile whose questions are answered, on a model that writes new questions."""
    run_cli("import", chats)
    assert run_cli("review", stdin="a\n" * 8).exit_code == 0
    settings = profile / "config.toml"
    settings.write_text(settings.read_text().replace("questions_per_day = 9", "questions_per_day = 20"))
    generate = LanguageModel.generate

    def write_questions(self: LanguageModel, prompts: Sequence[list[int]], **options: Any) -> list[str]:
        if "sampling" in options and options["sampling"].stop == ("\n",):
            return NEW[: len(prompts)]
        return generate(self, prompts, **options)

    monkeypatch.setattr(LanguageModel, "generate", write_questions)
    return profile


def test_questions_are_proposed_only_on_request_and_marked(reviewed: Path) -> None:
    assert run_json("synthesize")["questions"]["generated"] == 0
    assert run_json("review")["proposed_questions"] == []
    output = run_cli("synthesize", "--questions", 3).stdout
    assert "3 questions are proposed; answer or reject them with `mlx-personal review`" in output
    listed = run_json("review")
    assert listed["questions"] == []
    assert listed["proposed_questions"] == [{"proposed": i + 1, "question": NEW[i]} for i in range(3)]


def test_a_run_proposes_as_many_as_the_settings_want(reviewed: Path) -> None:
    settings = reviewed / "config.toml"
    settings.write_text(settings.read_text().replace("[synthesis]", "[synthesis]\nquestions = 2"))
    assert run_json("run")["done"]["questions"]["proposed"] == 2
    assert "questions" not in run_json("run")["done"], "two are open"
    assert "1 proposed question is open" in run_cli("review", stdin="n\nq\n").stdout
    assert run_json("run")["done"]["questions"]["proposed"] == 1


def test_the_owner_answers_rejects_and_undoes(reviewed: Path) -> None:
    run_cli("synthesize", "--questions", 3)
    before = run_json("status")
    output = run_cli("review", stdin="w\nIn March.\nn\nu\nn\nx\nw\n  \nw\nThe oily one.\n").stdout
    assert output.count("proposed question: you have not asked this") == 6
    assert "Nothing was changed: the answer to proposed question 3 is not valid: an empty assistant message." in output
    assert "The verdict on proposed question 2 was undone." in output
    assert "2 annotated" in output and "proposed questions are open" not in output
    after = run_json("status")
    assert after["annotated"] == before["annotated"] + 2
    assert (after["received"], after["unscored"]) == (before["received"], before["unscored"])
    assert run_json("buffer", "show", 31)["source"] == "proposed"
    assert "dialogue 31 answers a proposed question" in error_line("buffer", "why", 31), "selection never saw it"
    assert run_json("review", "--undo") == {"undone_proposed": 3}
    assert run_json("review")["proposed_questions"] == [{"proposed": 3, "question": NEW[2]}]


def test_verdicts_come_from_a_file(reviewed: Path, tmp_path: Path) -> None:
    run_cli("synthesize", "--questions", 3)
    file = tmp_path / "verdicts.jsonl"
    good = [
        {"proposed": 1, "verdict": "answer", "answers": ["In March."]},
        {"proposed": 2, "verdict": "reject"},
    ]
    bad = [
        {"proposed": 2, "verdict": "reject"},
        {"proposed": 3, "verdict": "accept"},
        {"proposed": 3, "verdict": "answer"},
        {"proposed": 3, "verdict": "answer", "answers": ["a", "b"]},
        {"proposed": True, "verdict": "reject"},
        {"proposed": 99, "verdict": "reject"},
        {"proposed": None, "verdict": "reject"},
    ]
    file.write_text("\n".join(map(json.dumps, [*good, *bad])))
    answer = run_json("review", "--answers", file)
    assert (answer["judged"], len(answer["bad_lines"])) == (2, len(bad))
    store = Store(reviewed, write=False)
    [row] = [row for row in store.annotations() if row.preferred is not None and row.preferred.question == NEW[0]]
    assert row.preferred is not None and row.preferred.answer == "In March."
    store.close()


def test_a_model_without_questions_is_reported(profile: Path, chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_cli("import", chats)
    run_cli("review", stdin="a\na\nq\n")
    assert "the model needs" in run_cli("synthesize", "--questions", 2).stdout
    run_cli("review", stdin="a\n" * 6)
    monkeypatch.setattr(LanguageModel, "generate", lambda self, prompts, **_: ["no"] * len(prompts))
    assert "None of 10 generated questions could be proposed (10 too short)" in (
        run_cli("synthesize", "--questions", 2).stdout
    )
    assert "is not in the range" in error_line("synthesize", "--questions", -1)
