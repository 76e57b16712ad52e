"""`tune`: dry runs, what it prints, wrong input, and stopping by signals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mlx_personal.config import Config
from mlx_personal.personalizer import tuning
from mlx_personal.personalizer.tuning import TuningPlan, TuningResult
from mlx_personal.personalizer.tuning.search import Candidate, Trial
from mlx_personal.personalizer.tuning.trials import TrialRunner
from tests.support.cli import dialogue_line, error_line, run_cli, run_json

QUESTIONS = [
    "How do I cook lentils?",
    "When are tomatoes planted outside?",
    "What is the tax on a small house?",
    "Can you tune my old guitar?",
    "Why does the kitten sleep all day?",
    "Which opening in chess is solid?",
    "Where may one sail without an anchor?",
    "Is cement stronger than lime?",
    "Who wrote that opera about Egypt?",
    "Do bees sleep in winter?",
    "Should snow be cleared before noon?",
    "May I paint over wallpaper?",
]


@pytest.fixture
def ready(profile: Path, tmp_path: Path) -> Path:
    """A profile of twelve annotated dialogues, some of which are held out."""
    settings = (profile / "config.toml").read_text().replace("bins = 8", "bins = 16")
    (profile / "config.toml").write_text(settings.replace("questions_per_day = 9", "questions_per_day = 99"))
    chats = tmp_path / "chats.jsonl"
    chats.write_text("\n".join(dialogue_line(question, f"Hm, {question.lower()}") for question in QUESTIONS))
    run_cli("import", chats)
    run_cli("review", stdin="a\n" * len(QUESTIONS))
    return profile


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "soon", "1e9"])
def test_minutes_that_are_no_time_are_one_line(profile: Path, minutes: str) -> None:
    assert "--minutes" in error_line("tune", "--minutes", minutes)


def test_a_profile_without_annotated_dialogues_says_what_to_do(profile: Path) -> None:
    line = error_line("tune", "--minutes", 1)
    assert "no annotated dialogue to tune on; run `mlx-personal review` first" in line
    assert error_line("tune", "--minutes", 1, "--dry-run") == line


def test_a_dry_run_shows_the_candidates_and_changes_nothing(ready: Path) -> None:
    files = {file: file.read_bytes() for file in ready.rglob("*") if file.is_file() and "profile.db" not in file.name}
    plan = run_json("tune", "--minutes", 1, "--dry-run")
    assert (len(plan["candidates"]), plan["stored_trials"], plan["objectives"]) == (
        9,
        0,
        ["sft", "sft+dpo with negatives"],
    )
    assert plan["candidates"][0]["epochs"] == 1 and plan["held_out"] > 0 and plan["validation"] > 0
    text = run_cli("tune", "--minutes", 1, "--dry-run").stdout
    assert "beginning with the present settings:" in text
    assert "finetune.learning_rate = 0.0003, finetune.epochs = 1, finetune.rank = 8" in text
    assert files == {file: file.read_bytes() for file in ready.rglob("*") if file in files}


def test_an_interrupted_search_goes_on_with_the_same_command(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score = TrialRunner.score
    scored: list[float] = []
    monkeypatch.setattr(TrialRunner, "tokens", lambda *_: 1)

    def interrupt(self: TrialRunner, *arguments: Any) -> float:
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(score(self, *arguments))
        return -float(len(scored))

    config = (ready / "config.toml").read_bytes()
    monkeypatch.setattr(TrialRunner, "score", interrupt)
    result = run_cli("tune", "--minutes", 5, "--json")
    assert result.exit_code == 130
    line = "the search was interrupted; the same command continues after the last finished trial"
    assert json.loads(result.stdout) == {"error": line}
    assert run_json("tune", "--minutes", 1, "--dry-run")["stored_trials"] == 2
    assert (ready / "config.toml").read_bytes() == config and list((ready / "adapters").iterdir()) == []

    monkeypatch.setattr(TrialRunner, "score", lambda *_: -10.0)
    text = run_cli("tune", "--minutes", 5).stdout
    assert "2 of them from an earlier search" in text
    assert "Note: only 6 dialogues are held out, which is weak evidence." in text
    assert "The present settings scored best in the search. Nothing is better" in text
    status = run_json("status")["tuning"]
    assert (status["is_better"], status["gain"]) == (False, None)
    assert "nothing was better than the settings before" in " ".join(run_cli("status").stdout.split())


@pytest.mark.parametrize("examples", [0, 3])
def test_what_was_written_says_from_when_it_counts(
    profile: Path, monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    present = Candidate.of(Config())
    assert present.memory_examples == 0
    best = Trial(dataclasses.replace(present, rank=32, memory_examples=examples), 0, -1.0, 1, 1.0)
    plan = TuningPlan(8, 2, 5, (8,), ("sft",), (present,), 0, ())
    result = TuningResult(plan, (best,), 1.0, present, best, None, True, "it is", True, ())
    monkeypatch.setattr(tuning, "tune", lambda *_: result)
    text = " ".join(run_cli("tune", "--minutes", 1).stdout.split())
    assert "they count from the next training: `mlx-personal train`" in text
    assert ("Those of the memory count from the next `mlx-personal chat` on" in text) is (examples == 3)
    assert ("memory.use = always, memory.examples = 3" in text) is (examples == 3)


@pytest.mark.slow
def test_a_search_prints_what_it_tried_and_whether_it_is_better(ready: Path) -> None:
    text = run_cli("tune", "--minutes", 0.3).stdout
    assert "trials: " in text and "Before:  finetune.learning_rate = 0.0003" in text
    assert ("are written to config.toml" in text) != ("Nothing is better than the present settings" in text)
