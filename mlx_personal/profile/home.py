"""Where profiles live: `MLX_PERSONAL_HOME`, or the folder the system gives to applications."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import click

from mlx_personal.errors import UserError


@dataclass(frozen=True)
class Home:
    """The folder that holds all profiles, each in a folder of its own."""

    folder: Path

    @classmethod
    def default(cls) -> Home:
        chosen = os.environ.get("MLX_PERSONAL_HOME")
        return cls(Path(chosen).expanduser() if chosen else Path(click.get_app_dir("mlx-personal")))

    def profile(self, name: str) -> Path:
        """The folder of one profile; UserError if the name could leave this home."""
        if not re.fullmatch(r"[\w][\w.-]{0,63}", name):
            raise UserError(f"{name!r} is no name for a profile", hint="use letters, digits, '-', '_' and '.'")
        return self.folder / "profiles" / name

    def profiles(self) -> list[str]:
        """The names of the profiles that exist, sorted."""
        return sorted(path.parent.name for path in (self.folder / "profiles").glob("*/profile.db"))
