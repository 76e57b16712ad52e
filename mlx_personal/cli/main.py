"""The `mlx-personal` command: its options, its subcommands, and the exit statuses.

Status 0: done. 1: it ran, and the answer is no (a check of `doctor` failed, there is nothing to compare). 2: the
command or its input is wrong; one line on standard error says what, where and what to do. 130 and 143: Ctrl-C or
SIGTERM stopped it; 128 and the signal's number, as shells count.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import click

import mlx_personal
from mlx_personal.cli import (
    adapters,
    augment,
    benchmark,
    chat,
    demo,
    doctor,
    lamp,
    profile,
    review,
    stream,
    study,
    training,
)
from mlx_personal.cli.context import Cli
from mlx_personal.errors import StoppedError, UserError, encodable, from_os_error
from mlx_personal.profile.home import Home

_COMMANDS = (
    profile.init,
    stream.import_,
    profile.status,
    stream.buffer,
    stream.lexicon,
    review.review,
    training.synthesize,
    augment.augment,
    training.train,
    training.evaluate,
    chat.chat,
    training.run,
    adapters.adapters,
    demo.demo,
    benchmark.benchmark,
    study.study,
    lamp.lamp,
    doctor.doctor,
)


class _InOrder(click.Group):
    """Lists the commands in the order of the loop, and turns the failures a user can mend into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [str(command.name) for command in _COMMANDS]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Only the innermost command knows its --json, and an error may come before that one is reached.
        ctx.meta["as_json"] = "--json" in args
        with _one_line(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        with _one_line(ctx):
            return super().invoke(ctx)


@contextlib.contextmanager
def _one_line(ctx: click.Context) -> Iterator[None]:
    """What the user can mend or has stopped becomes one line on standard error, with --json an object too."""
    status = 2
    try:
        yield
        return
    except (click.exceptions.NoArgsIsHelpError, BrokenPipeError):
        raise  # click prints its help, and ends quietly where the reader of our output has left
    except KeyboardInterrupt:
        line, status = "interrupted", 128 + signal.SIGINT
    except UserError as error:
        line = error.line()
        status = 128 + error.signal if isinstance(error, StoppedError) else status
    except click.ClickException as error:
        line = error.format_message() + (" (see --help)" if isinstance(error, click.UsageError) else "")
    except OSError as error:
        line = from_os_error(error).line()
    line = encodable(line)
    if ctx.meta["as_json"]:
        click.echo(json.dumps({"error": line}))
    click.echo(f"mlx-personal: {line}", err=True)
    ctx.exit(status)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mlx_personal.__version__, prog_name="mlx-personal")
@click.option("--profile", "name", default="default", metavar="NAME", help="The profile to use.", show_default=True)
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="MLX_PERSONAL_HOME",
    help="The folder of all profiles.  [default: the system's application folder]",
)
@click.pass_context
def main(ctx: click.Context, name: str, home: Path | None) -> None:
    """Learns from your own conversations, privately, on MLX."""
    ctx.obj = Cli(Home(home) if home else Home.default(), name)


for _command in _COMMANDS:
    main.add_command(_command)
