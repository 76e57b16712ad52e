"""`train` with an objective of preference pairs: its report, its estimate, and a profile without pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cases import slow_cases
from tests.support.cli import error_line, run_cli, run_json


@pytest.fixture
def annotated(profile: Path, chats: Path) -> Path:
    """A profile whose answers were all accepted."""
    run_cli("import", chats)
    run_cli("review", stdin="a\n" * 8)
    return profile


def set_objective(profile: Path, objective: str) -> None:
    settings = (profile / "config.toml").read_text().replace("epochs = 1", f'epochs = 2\nobjective = "{objective}"')
    (profile / "config.toml").write_text(settings)


@pytest.mark.parametrize("objective", ["dpo", *slow_cases("orpo")])
@pytest.mark.parametrize("arguments", [[], ["--dry-run"]])
def test_a_profile_without_pairs_is_told_so_on_one_line(annotated: Path, objective: str, arguments: list[str]) -> None:
    set_objective(annotated, objective)
    line = error_line("train", *arguments)
    assert f"there is no preference pair to train on, which the objective {objective} needs" in line
    assert "edit or rewrite some answers first, or set objective to sft" in line


def test_sft_and_dpo_without_pairs_trains_sft(annotated: Path) -> None:
    set_objective(annotated, "sft+dpo")
    report = run_json("train")["report"]
    assert report["pairs"] == 0 and report["steps"] > 0
    assert "there is no preference pair to train on: sft+dpo is the same as sft" in report["notes"]


def test_an_unknown_objective_is_one_line(annotated: Path) -> None:
    set_objective(annotated, "ppo")
    assert "objective is 'ppo'; it must be one of sft, dpo, orpo, sft+dpo" in error_line("train")


def test_rewards_are_shown_under_trls_names(profile: Path, chats: Path) -> None:
    run_cli("import", chats)
    run_cli("review", stdin="".join(f"r\nAnswer {i} of the owner.\n" for i in range(8)))
    set_objective(profile, "dpo")
    estimate = run_cli("train", "--dry-run").stdout
    assert "preference pair" in estimate and "for the objective dpo" in estimate
    output = run_cli("train").stdout
    assert "rewards/margins 0.000 in the first epoch" in output and "rewards/accuracies" in output
