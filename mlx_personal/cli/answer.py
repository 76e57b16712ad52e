"""What every command shares: the profile it works on, `--json`, and progress on standard error."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mlx_personal.store.home import Home

if TYPE_CHECKING:
    from mlx_personal.personalizer import Personalizer


@dataclass(frozen=True)
class Answer:
    """What a command found: `data` for `--json`, `show` for a person, and the exit status."""

    data: Any
    show: Callable[[Console], None]
    status: int = 0


@dataclass
class Cli:
    """The profile that was named, and where output goes."""

    home: Home
    name: str
    as_json: bool = False
    progress: Console = field(default_factory=lambda: Console(stderr=True))

    @property
    def folder(self) -> Path:
        return self.home.profile(self.name)

    def open(self, write: bool = True) -> Personalizer:
        """The profile. Imported here, so that `--help` does not wait for the model libraries."""
        from mlx_personal.personalizer import Personalizer

        return Personalizer(self.folder, write)

    @contextlib.contextmanager
    def bar(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A progress bar; yields the function that sets it to (done, total)."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        quiet = self.as_json or not self.progress.is_terminal
        with Progress(*columns, console=self.progress, transient=True, disable=quiet) as progress:
            task = progress.add_task(what, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)


def answers(function: Callable[..., Answer]) -> Callable[..., None]:
    """Gives a command `--json` and prints the `Answer` it returns. The command gets the `Cli` first."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    @click.pass_context
    @functools.wraps(function)
    def command(ctx: click.Context, as_json: bool, **options: Any) -> None:
        cli: Cli = ctx.obj
        cli.as_json = as_json
        answer = function(cli, **options)
        if as_json:
            click.echo(json.dumps(answer.data, ensure_ascii=False))
        else:
            answer.show(Console(highlight=False))
        ctx.exit(answer.status)

    return command
