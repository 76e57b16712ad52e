"""Run commands of the command line in this process."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from mlx_personal.cli import main


def run_cli(*arguments: object, stdin: str | bytes | None = None) -> Result:
    """Run a command, and let exceptions other than an exit pass."""
    return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin, catch_exceptions=False)


def run_json(*arguments: object) -> Any:
    """Run a command that succeeds with `--json`, and return its output."""
    result = run_cli(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def error_line(*arguments: object) -> str:
    """Run a command that fails with exit code 2, and return the one line that it prints."""
    result = run_cli(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("mlx-personal: ")
    return line


def dialogue_line(question: str, answer: str) -> str:
    """Return a dialogue as a line of JSON."""
    return json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
