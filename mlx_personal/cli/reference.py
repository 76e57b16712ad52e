"""Print the reference of the command line as Markdown: `python -m mlx_personal.cli.reference > docs/cli.md`.

The text comes from the commands themselves and does not depend on the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from mlx_personal.cli.lazy_group import subcommands
from mlx_personal.cli.main import main

# Columns of the help texts.
_WIDTH = 100
_INTRODUCTION = """\
# Command line

The help of every command, as `mlx-personal COMMAND --help` prints it. `python -m mlx_personal.cli.reference` makes this
page.

Every command that prints a result has `--json`. The exit code is 0 if the command succeeded; 1 if it ran, but a check
or a job failed or a part of the result is missing; 2 if the command or its input is wrong, which one line on standard
error explains; 130, 143 or 129 if Ctrl-C, SIGTERM or SIGHUP (a closed terminal) stopped it."""


def render_reference() -> str:
    """Return the help of every command as Markdown."""
    sections = "\n\n".join(_sections(_context(main, None), level=2))
    return f"{_INTRODUCTION}\n\n{sections}\n"


def _sections(ctx: click.Context, level: int) -> Iterator[str]:
    """Yield the section of a command and those of its subcommands."""
    yield f"{'#' * level} {ctx.command_path}\n\n```text\n{ctx.command.get_help(ctx).rstrip()}\n```"
    if isinstance(ctx.command, click.Group):
        for command in subcommands(ctx.command):
            yield from _sections(_context(command, ctx), level + 1)


def _context(command: click.Command, parent: click.Context | None) -> click.Context:
    """Return a context of a fixed width, whatever the terminal."""
    return click.Context(
        command,
        parent=parent,
        info_name="mlx-personal" if parent is None else command.name,
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        help_option_names=command.context_settings.get("help_option_names"),
    )


if __name__ == "__main__":
    click.echo(render_reference(), nl=False)
