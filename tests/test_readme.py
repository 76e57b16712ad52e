"""The README keeps its word: its commands, its Python, its table of commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mlx_personal.cli.main import _COMMANDS
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language: Any, text: Any = README) -> Any:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("heading", ["Try it", "Test it"])
def test_the_two_commands_are_one_line_each(heading: str) -> None:
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    (command,) = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert command.count("\n") == 1
    assert "venv" in command


def test_every_command_is_named() -> None:
    for command in _COMMANDS:
        assert f"`{command.name}" in README or f"mlx-personal {command.name}" in README, command.name


@pytest.mark.parametrize("page", ["README.md", "kernels/README.md", "tests/metal/README.md", "benchmarks/README.md"])
def test_files_it_links_to_exist(page: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target


def test_the_python_of_the_kernels_page_runs() -> None:
    (code,) = blocks("python", (ROOT / "kernels/README.md").read_text())
    scope: dict[str, object] = {}
    exec(compile(code, "kernels/README.md", "exec"), scope)
    assert scope["entropies"].shape == scope["mean"].shape == scope["row"].shape == (8,)


def test_its_first_python_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[0], "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_its_second_python_runs_on_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_personal.models.language_model import resolve

    code = blocks("python")[1].replace("mlx-community/Llama-3.2-3B-Instruct-4bit", str(resolve("demo")))
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["embedding"].states.shape[0] > 0
