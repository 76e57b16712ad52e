"""Print text to the terminal without characters that could change it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Control characters, which could move the cursor or change the terminal, except line feeds and tabs; and surrogates.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


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
