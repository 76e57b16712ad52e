"""The context that all commands share: the profile they work on, and the form of their output."""

from __future__ import annotations

import contextlib
import functools
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mlx_personal.cli.remedies import DEFAULT_PROFILE, ProfileOptions
from mlx_personal.cli.terminal import make_console

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.personalizer import Personalizer
    from mlx_personal.profile import Store
    from mlx_personal.storage.home import Home

# The number of a dialogue or an adapter; the database counts from 1 and holds 64 bits.
ID: Final = click.IntRange(1, 2**63 - 1)
ID.name = "number"

MAC_MODEL: Final = "mlx-community/Llama-3.2-3B-Instruct-4bit"


@dataclass
class CommandContext:
    """The profile of a command and the form of its output.

    Attributes:
        home_folder: Folder of all profiles; None for the default.
        profile_name: Name of the profile.
        profile_options: The options that name this profile in a command line.
        as_json: Whether the command prints JSON; progress is not shown then.
    """

    home_folder: Path | None = None
    profile_name: str = DEFAULT_PROFILE
    profile_options: ProfileOptions = field(default_factory=ProfileOptions)
    as_json: bool = False

    @functools.cached_property
    def home(self) -> Home:
        """The folder of all profiles."""
        from mlx_personal.storage.home import Home

        return Home(self.home_folder) if self.home_folder is not None else Home.default()

    @property
    def profile_folder(self) -> Path:
        """The folder of the profile."""
        return self.home.profile(self.profile_name)

    @functools.cached_property
    def progress_console(self) -> Console:
        """The console on standard error, for progress."""
        return make_console(stderr=True)

    @property
    def shows_progress(self) -> bool:
        """Whether there is a terminal to show progress on."""
        return not self.as_json and self.progress_console.is_terminal

    def command(self, *arguments: str) -> str:
        """Return a command on this profile for the user to run, quoted for a shell."""
        return self.profile_options.command(*arguments)

    def open_profile(self, write: bool = True) -> Personalizer:
        """Open the profile.

        Args:
            write: Whether the command changes the profile. For reading, it may be in use by another process too.
        """
        from mlx_personal.personalizer import Personalizer

        return Personalizer(self.profile_folder, write)

    def open_store(self) -> AbstractContextManager[Store]:
        """Open the database of the profile for reading, which needs neither a model nor its library.

        Raises:
            UserError: If there is no profile, or its database cannot be read.
        """
        from mlx_personal.profile import Store, check_profile_exists

        check_profile_exists(self.profile_folder)
        return contextlib.closing(Store(self.profile_folder, write=False))
