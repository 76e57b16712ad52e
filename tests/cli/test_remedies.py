"""Remedies of errors as command lines."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click
import pytest

from mlx_personal.cli.lazy_group import loaded
from mlx_personal.cli.main import main
from mlx_personal.cli.remedies import ProfileOptions, error_line, remedy_sentence
from mlx_personal.errors import Action, Remedy, UserError
from tests.support.cli import run_cli

ARGUMENTS = {"server": "https://example.org/v1", "model": "big model", "out": "my folder"}


def commands(sentence: str) -> list[list[str]]:
    """Return the commands in a sentence, split as a shell splits them."""
    return [shlex.split(text) for text in sentence.split("`")[1::2]]


@pytest.mark.parametrize("action", Action)
def test_every_action_has_a_sentence_whose_commands_exist(action: Action) -> None:
    sentence = remedy_sentence(Remedy(action, ARGUMENTS))
    assert sentence and "\n" not in sentence
    for program, name, *_ in commands(sentence):
        assert program == "mlx-personal" and name in main.commands
        assert run_cli(name, "--help").exit_code == 0


@pytest.mark.parametrize("action", Action)
def test_commands_name_the_profile_that_is_not_the_default(action: Action) -> None:
    profile = ProfileOptions("other one", Path("my home"))
    for command in commands(remedy_sentence(Remedy(action, ARGUMENTS), profile)):
        assert command[1:5] == ["--home", "my home", "--profile", "other one"]
    for command in commands(remedy_sentence(Remedy(action, ARGUMENTS))):
        assert "--profile" not in command and "--home" not in command


def test_consent_names_the_whole_command() -> None:
    (command,) = commands(remedy_sentence(Remedy(Action.GRANT_CONSENT, ARGUMENTS)))
    options = ["--server", "https://example.org/v1", "--server-model", "big model", "--out", "my folder"]
    assert command == ["mlx-personal", "augment", "consent", *options]
    server_and_model = {"server": "https://example.org/v1", "model": "big model"}
    (command,) = commands(remedy_sentence(Remedy(Action.GRANT_CONSENT, server_and_model)))
    assert command == ["mlx-personal", "augment", "consent", *options[:4]]


@pytest.mark.parametrize("action", [Action.RUN_STUDY, Action.RUN_LAMP])
def test_runs_of_experiments_have_what_they_need_and_name_their_folder(action: Action) -> None:
    (command,) = commands(remedy_sentence(Remedy(action, {"folder": "my folder"})))
    group = loaded(main.commands[command[1]])
    assert isinstance(group, click.Group)
    group.commands[command[2]].make_context("run", command[3:])  # fails if a required option is missing
    assert "my folder" in command


def test_restart_of_a_training_names_the_profile() -> None:
    (command,) = commands(remedy_sentence(Remedy(Action.RESTART_TRAINING), ProfileOptions("work")))
    assert command == ["mlx-personal", "--profile", "work", "train", "--restart"]


def test_hint_and_remedy_are_both_in_the_line() -> None:
    error = UserError("no adapter is promoted", "folder", "name one", remedy=Action.LIST_ADAPTERS)
    line = error_line(error)
    assert line == "folder: no adapter is promoted; name one; `mlx-personal adapters list` lists the adapters"
    assert error_line(UserError("no dialogue", "file", "check it")) == "file: no dialogue; check it"


@pytest.mark.parametrize(("platform", "options"), [("darwin", ""), ("linux", " --model MODEL")])
def test_errors_of_commands_name_the_profile(
    platform: str, options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)  # only a Mac has a default model
    line = run_cli("--profile", "work", "status").stderr
    assert line.endswith(f"run `mlx-personal --profile work init{options}` first\n")
    line = run_cli("--home", tmp_path / "a b", "status").stderr
    assert line.endswith(f"run `mlx-personal --home '{tmp_path / 'a b'}' init{options}` first\n")
