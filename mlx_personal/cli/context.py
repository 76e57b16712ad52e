"""What every command shares: the profile it works on, `--json`, and progress on standard error."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar
from rich.text import Text

from mlx_personal.profile.home import Home
from mlx_personal.progress import Progress, ProgressEvent

if TYPE_CHECKING:
    from mlx_personal.personalizer import Personalizer


# The number of a dialogue or an adapter, as the database counts.
ID: Final = click.IntRange(1, 2**63 - 1)
ID.name = "number"

# Line feeds and tabs aside: what could move the cursor or change the terminal, and halves of characters.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def terminal(**options: Any) -> Console:
    """A console that prints texts as they are: no `[markup]`, no `:emoji:`, no colored numbers."""
    return Console(highlight=False, markup=False, emoji=False, **options)


def printable(text: str) -> str:
    """`text` from outside, safe to print: control characters become the replacement character."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n"))


def styled(words: str, style: str, rest: str = "") -> Text:
    """`words` in a style, then `rest` without one."""
    return Text.assemble((printable(words), style), printable(rest))


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
    progress: Console = field(default_factory=lambda: terminal(stderr=True))

    @property
    def folder(self) -> Path:
        return self.home.profile(self.name)

    def open(self, write: bool = True) -> Personalizer:
        """The profile. Imported here, so that `--help` does not wait for the model libraries."""
        from mlx_personal.personalizer import Personalizer

        return Personalizer(self.folder, write)

    @contextlib.contextmanager
    def bar(self, what: str, by_stage: bool = False) -> Iterator[Progress]:
        """Show a progress bar labelled `what`, or with each event's stage where `by_stage`; yields what takes events."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        quiet = self.as_json or not self.progress.is_terminal
        with ProgressBar(*columns, console=self.progress, transient=True, disable=quiet) as bar:
            task = bar.add_task(what, total=None)

            def update(event: ProgressEvent, /) -> None:
                label = event.stage if by_stage else what
                bar.update(task, completed=event.done, total=event.total, description=label)

            yield update


def answers(function: Callable[..., Answer | None]) -> Callable[..., None]:
    """Gives a command `--json` and prints the `Answer` it returns, if any. The command gets the `Cli` first."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.pass_context
    @functools.wraps(function)
    def command(ctx: click.Context, as_json: bool, **options: Any) -> None:
        cli: Cli = ctx.obj
        cli.as_json = as_json
        answer = function(cli, **options)
        if answer is None:
            return
        if as_json:
            # Half a character, as in a file name that is not UTF-8, is escaped the way JSON has it too.
            line = json.dumps(answer.data, ensure_ascii=False)
            click.echo(line.encode("utf-8", "backslashreplace").decode())
        else:
            answer.show(terminal())
        ctx.exit(answer.status)

    return command
