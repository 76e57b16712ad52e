"""The `mlx-personal` command: its options, its subcommands and its exit codes.

Exit code 0: the command succeeded. 1: it ran, but a check or a job failed, or a part of the result is missing. 2: the
command or its input is wrong; one line on standard error says what, where and what to do. 128 plus the number of the
signal, as in shells: Ctrl-C (130), SIGTERM (143) or SIGHUP, the end of its terminal (129), stopped it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from click.core import ParameterSource

import mlx_personal
from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.lazy_group import LazyGroup
from mlx_personal.cli.logs import configure_logging
from mlx_personal.cli.remedies import DEFAULT_PROFILE, ProfileOptions, error_line
from mlx_personal.errors import StoppedError, UserError, escape_surrogates, from_os_error

logger = logging.getLogger(__name__)

_PACKAGE = "mlx_personal.cli"
# The module and the short help of each command, in the order of `--help`, which shows them without importing any.
COMMANDS: Final = {
    "init": (f"{_PACKAGE}.profile:init", "Create a profile, or change its base model."),
    "models": (f"{_PACKAGE}.models:models", "List the models that this machine has, and delete converted ones."),
    "import": (f"{_PACKAGE}.import_:import_", "Import conversations from PATHS, then score and select them."),
    "imports": (f"{_PACKAGE}.imports:imports", "List the imports, and take one back."),
    "watch": (f"{_PACKAGE}.watch:watch", "Watch folders of other programs, from which `run` imports what is new."),
    "status": (f"{_PACKAGE}.profile:status", "Show the state of the profile and its pending steps."),
    "buffer": (f"{_PACKAGE}.buffer:buffer", "Show the selected dialogues and why they were selected."),
    "lexicon": (
        f"{_PACKAGE}.lexicon:lexicon",
        "Show the subjects (domains) that dialogues are scored by, and suggest new ones.",
    ),
    "review": (f"{_PACKAGE}.review:review", "Annotate the answers of selected dialogues."),
    "synthesize": (f"{_PACKAGE}.synthesize:synthesize", "Generate synthetic dialogues from the annotated ones."),
    "augment": (f"{_PACKAGE}.augment:augment", "Have a server's model write more dialogues like yours."),
    "train": (f"{_PACKAGE}.train:train", "Train an adapter on the annotated and synthetic dialogues."),
    "tune": (f"{_PACKAGE}.tune:tune", "Search the settings of training and memory that suit your dialogues."),
    "evaluate": (f"{_PACKAGE}.evaluate:evaluate", "Compare an adapter with the base model on held-out dialogues."),
    "chat": (f"{_PACKAGE}.chat:chat", "Chat with the model and its promoted adapter."),
    "run": (f"{_PACKAGE}.run:run", "Run all pending steps: score, synthesize, train, evaluate."),
    "adapters": (f"{_PACKAGE}.adapters:adapters", "List the trained adapters and choose the one in use."),
    "demo": (f"{_PACKAGE}.demo:demo", "Run the whole loop on bundled dialogues, offline."),
    "benchmark": (f"{_PACKAGE}.benchmark:benchmark", "Measure the fine-tuning speed of this machine."),
    "study": (f"{_PACKAGE}.study:study", "Compare policies, adapter and memory on the data sets of Qin et al., 2024."),
    "lamp": (f"{_PACKAGE}.lamp:lamp", "Run the LaMP benchmark with one adapter for each user."),
    "doctor": (f"{_PACKAGE}.doctor:doctor", "Check the machine, the installation and the profile."),
}


class _MainGroup(LazyGroup):
    """The top-level group, which prints an error as one line and sets the exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Only the innermost command knows its --json, and an error may come before that command is reached.
        ctx.meta["as_json"] = "--json" in args
        with _errors_on_one_line(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        with _errors_on_one_line(ctx):
            return super().invoke(ctx)


@contextlib.contextmanager
def _errors_on_one_line(ctx: click.Context) -> Iterator[None]:
    """Print an error that the user can act on as a line on standard error, with `--json` as an object too."""
    exit_code = 2
    try:
        yield
        return
    except (click.exceptions.NoArgsIsHelpError, BrokenPipeError):
        raise  # click prints its help; it exits quietly where the reader of our output is gone
    except KeyboardInterrupt:
        line, exit_code = "interrupted", 128 + signal.SIGINT
    except UserError as error:
        line = error_line(error, _profile_options(ctx))
        exit_code = 128 + error.signal if isinstance(error, StoppedError) else exit_code
    except click.ClickException as error:
        line = error.format_message() + (" (see --help)" if isinstance(error, click.UsageError) else "")
    except OSError as error:
        line = from_os_error(error).line()
    line = escape_surrogates(line)
    with contextlib.suppress(OSError):  # the terminal may be gone
        if ctx.meta["as_json"]:
            click.echo(json.dumps({"error": line}))
        click.echo(f"mlx-personal: {line}", err=True)
    ctx.exit(exit_code)


def _profile_options(ctx: click.Context) -> ProfileOptions:
    """Return the options that were given on the command line to name the profile."""
    home_folder = ctx.params.get("home") if ctx.get_parameter_source("home") is ParameterSource.COMMANDLINE else None
    return ProfileOptions(ctx.params.get("name", DEFAULT_PROFILE), home_folder)


@click.group(cls=_MainGroup, lazy_commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mlx_personal.__version__, prog_name="mlx-personal")
@click.option("--profile", "name", default=DEFAULT_PROFILE, metavar="NAME", help="Profile to use.", show_default=True)
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    envvar="MLX_PERSONAL_HOME",
    help="Folder of all profiles.  [default: the system's application folder]",
)
@click.option("-v", "--verbose", count=True, help="Print log lines on standard error; -vv prints more.")
@click.option(
    "--log-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Append log lines to this file; they never contain text of your dialogues.",
)
@click.pass_context
def main(ctx: click.Context, name: str, home: Path | None, verbose: int, log_file: Path | None) -> None:
    """Personalize a language model with your own conversations, privately, on MLX."""
    if home is not None:
        home = home.expanduser()
        # Models are converted into the home too, in this process and in those that it starts.
        os.environ["MLX_PERSONAL_HOME"] = str(home.absolute())
    if sys.stdin is None:  # it was closed, as by `<&-` in a shell; commands read it as an empty one
        sys.stdin = io.StringIO()
    ctx.obj = CommandContext(home, name, _profile_options(ctx))
    ctx.call_on_close(configure_logging(verbose, log_file))
    logger.info("mlx-personal %s: %s", mlx_personal.__version__, ctx.invoked_subcommand)
