"""What commands import: help, completion and errors only click, and `status` no model library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mlx_personal.cli.lazy_group import LazyCommand
from mlx_personal.cli.main import COMMANDS, main
from tests.support.cases import quick_cases

SLOW_MODULES = {"mlx.core", "mlx_lm", "transformers", "rouge_score", "nltk", "ray", "torch"}
# Of this package, help and errors import what is light.
LIGHT_NAMES = ("cli", "errors", "lazy_imports", "progress", "reporting", "runtime")
LIGHT_MODULES = tuple(f"mlx_personal.{name}" for name in LIGHT_NAMES)
CODE = """
import json, sys
from mlx_personal.cli import main
try:
    main(sys.argv[1:], prog_name="mlx-personal")
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def imported(*arguments: str, **variables: str) -> tuple[set[str], str]:
    """Return the modules that a command imports in a process of its own, and its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, env={**os.environ, **variables}
    )
    return set(json.loads(done.stderr.splitlines()[-1])), done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        *[["--help"], ["nosuch"], ["--nosuch"], ["status", "--nosuch"], ["buffer", "show", "x"], []],
        *quick_cases([[name, "--help"] for name in COMMANDS], ["train", "--help"], ["chat", "--help"]),
    ],
)
def test_help_and_usage_errors_import_light_modules_only(arguments: list[str]) -> None:
    modules, _ = imported(*arguments)
    assert not modules & (SLOW_MODULES | {"numpy", "rich", "mlx_personal.research"})
    package_modules = {name for name in modules if name.startswith("mlx_personal.")}
    assert {name for name in package_modules if not name.startswith(LIGHT_MODULES)} == set()


def test_completion_imports_light_modules_only() -> None:
    variables = {"_MLX_PERSONAL_COMPLETE": "bash_complete", "COMP_WORDS": "mlx-personal ad", "COMP_CWORD": "1"}
    modules, output = imported(**variables)
    assert output == "plain,adapters\n"
    assert not modules & (SLOW_MODULES | {"numpy", "rich", "mlx_personal.research"})
    assert not any(f"mlx_personal.cli.{name}" in modules for name in ("adapters", "augment", "study", "lamp"))


def test_groups_are_imported_when_called(profile: Path) -> None:
    modules, _ = imported("status")
    assert not any(f"mlx_personal.cli.{name}" in modules for name in ("augment", "study", "lamp", "benchmark"))


def test_status_imports_no_model_library(profile: Path) -> None:
    modules, output = imported("status")
    assert "base model" in output
    assert not modules & SLOW_MODULES


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_the_group_is_that_of_the_command(name: str) -> None:
    entry = main.commands[name]
    assert isinstance(entry, LazyCommand)
    command = entry.load()
    assert isinstance(command, click.Command) and command.name == name
    assert command.get_short_help_str(limit=1000) == entry.get_short_help_str(limit=1000) == COMMANDS[name][1]
