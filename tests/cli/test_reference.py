"""The reference of the command line in docs/cli.md."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest

from mlx_personal.cli.reference import render_reference
from tests.support.paths import ROOT


# The text is laid out by click; docs/cli.md is that of the locked version.
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
LOCKED_CLICK = next(package["version"] for package in LOCK["package"] if package["name"] == "click")


@pytest.mark.skipif(version("click") != LOCKED_CLICK, reason="another version of click lays help texts out differently")
def test_docs_have_the_reference_of_these_commands() -> None:
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert text == render_reference(), "python -m mlx_personal.cli.reference > docs/cli.md"


@pytest.mark.parametrize("columns", ["20", "300"])
def test_reference_does_not_depend_on_the_terminal(columns: str) -> None:
    environment = {**os.environ, "COLUMNS": columns, "MLX_PERSONAL_HOME": "/nowhere"}
    command = [sys.executable, "-m", "mlx_personal.cli.reference"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=True)
    assert done.stdout == render_reference()


def test_reference_has_every_command() -> None:
    text = render_reference()
    for name in ("mlx-personal", "mlx-personal adapters rollback", "mlx-personal study run", "mlx-personal doctor"):
        assert f"# {name}\n" in text
