"""The results of commands, printed as JSON or as text."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.terminal import make_console

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class CommandResult:
    """What a command prints, and its exit code.

    Attributes:
        data: The output with `--json`.
        show: Prints the output without `--json`.
        exit_code: Exit code of the command.
    """

    data: Any
    show: Callable[[Console], None]
    exit_code: int = 0


def json_option(function: Callable[..., CommandResult | None]) -> Callable[..., None]:
    """Add `--json` to a command and print the result that it returns.

    Args:
        function: The command. It is called with the `CommandContext` and its own options.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.pass_context
    @functools.wraps(function)
    def command(ctx: click.Context, /, as_json: bool, **options: Any) -> None:
        cli: CommandContext = ctx.obj
        cli.as_json = as_json
        result = function(cli, **options)
        if result is None:
            return
        if as_json:
            # A surrogate, as in a file name that is not UTF-8, is escaped the way JSON escapes it.
            line = json.dumps(result.data, ensure_ascii=False)
            click.echo(line.encode("utf-8", "backslashreplace").decode())
        else:
            result.show(make_console())
        ctx.exit(result.exit_code)

    return command
