"""Print the results of commands as JSON or text, without characters that could change the terminal."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from mlx_personal.cli.context import CommandContext

# Control characters, which could move the cursor or change the terminal, except line feeds and tabs; and surrogates.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


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


def make_console(**options: Any) -> Console:
    """Return a console that prints text as it is: no `[markup]`, no `:emoji:`, no colored numbers.

    Args:
        **options: Further options of `rich.console.Console`.
    """
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, **options)


def print_lines(console: Console, *lines: str) -> None:
    """Print lines that are not wrapped, with their control characters replaced."""
    for line in lines:
        console.print(printable(line), soft_wrap=True)


def print_styled(console: Console, words: str, style: str, rest: str = "") -> None:
    """Print a line that begins with `words` in a style and goes on with `rest` without one."""
    console.print(styled(words, style, rest), soft_wrap=True)


def styled(words: str, style: str, rest: str = "") -> Text:
    """Return `words` in a style followed by `rest` without one."""
    from rich.text import Text

    return Text.assemble((printable(words), style), printable(rest))


def printable(text: str) -> str:
    """Return `text` with the control characters replaced that could change the terminal."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n"))


def counts_text(counts: Mapping[str, int], empty: str = "none") -> str:
    """Return counts by name as text, such as `3 copies, 1 unusable`."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or empty


def print_notice(line: str) -> None:
    """Print a line on standard error."""
    click.echo(f"mlx-personal: {printable(line)}", err=True)
