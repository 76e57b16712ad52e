"""Where profiles are stored: `MLX_PERSONAL_HOME`, or the system's folder for application data."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlx_personal.errors import UserError

_APPLICATION: Final = "mlx-personal"


@dataclass(frozen=True)
class Home:
    """The folder of all profiles, each of which has its own folder in it, and of the models that they share.

    Attributes:
        folder: The folder, which need not exist.
    """

    folder: Path

    @classmethod
    def default(cls) -> Home:
        """Return the home folder that the environment sets, or else the system's folder for application data."""
        configured = os.environ.get("MLX_PERSONAL_HOME")
        return cls(Path(configured).expanduser() if configured else application_folder())

    @property
    def models(self) -> Path:
        """The folder of models that were converted from files of other programs."""
        return self.folder / "models"

    def profile(self, name: str) -> Path:
        """Return the folder of a profile.

        Args:
            name: Name of the profile, which need not exist.

        Raises:
            UserError: If the name is not valid; it could lead out of the home folder.
        """
        if not re.fullmatch(r"[\w][\w.-]{0,63}", name):
            raise UserError(f"{name!r} is not a valid profile name", hint="use letters, digits, '-', '_' and '.'")
        return self.folder / "profiles" / name

    def profiles(self) -> list[str]:
        """Return the names of the profiles that exist, sorted."""
        return sorted(path.parent.name for path in (self.folder / "profiles").glob("*/profile.db"))


def application_folder() -> Path:
    """Return the system's folder for this application's data.

    Returns:
        `~/Library/Application Support/mlx-personal` on macOS, else `mlx-personal` in `XDG_CONFIG_HOME` or `~/.config`.
        This is the result of `click.get_app_dir`, without importing click.
    """
    if sys.platform == "darwin":
        parent = os.path.expanduser("~/Library/Application Support")
    else:
        parent = os.environ.get("XDG_CONFIG_HOME", os.path.expanduser("~/.config"))
    return Path(parent, _APPLICATION)
