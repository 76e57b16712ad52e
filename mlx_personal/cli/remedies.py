"""Say how to remedy an error on the command line.

Library code says what the user can do as an `Action`; this module says how to do it on the command line.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlx_personal.errors import Action, Remedy, UserError

DEFAULT_PROFILE: Final = "default"


@dataclass(frozen=True)
class ProfileOptions:
    """The options by which a command line names a profile.

    Attributes:
        name: Name of the profile.
        home_folder: Folder of all profiles; None for the default.
    """

    name: str = DEFAULT_PROFILE
    home_folder: Path | None = None

    def command(self, *arguments: str) -> str:
        """Return a whole command on this profile, quoted for a shell."""
        options = [] if self.home_folder is None else ["--home", str(self.home_folder)]
        options += [] if self.name == DEFAULT_PROFILE else ["--profile", self.name]
        return f"`{shlex.join(['mlx-personal', *options, *arguments])}`"


# Returns the sentence about an action, given the arguments of the remedy and a function that formats a command.
_Sentence = Callable[[Mapping[str, str], Callable[..., str]], str]

_SENTENCES: Final[Mapping[Action, _Sentence]] = {
    Action.CREATE_PROFILE: lambda arguments, command: f"run {command('init', *_init_options())} first",
    Action.SET_BASE_MODEL: lambda arguments, command: (
        f"run {command('init', '--model', arguments.get('model', 'MODEL'))}"
    ),
    Action.CHOOSE_PROFILE: lambda arguments, command: "name another profile with --profile",
    Action.CHOOSE_HOME: lambda arguments, command: "name another folder with --home or MLX_PERSONAL_HOME",
    Action.IMPORT_DIALOGUES: lambda arguments, command: f"run {command('import', 'FILE')} first",
    Action.RUN_PENDING_STEPS: lambda arguments, command: f"run {command('run')} first",
    Action.ANNOTATE: lambda arguments, command: f"run {command('review')} first",
    Action.LIST_QUESTIONS: lambda arguments, command: f"{command('review', '--json')} lists the open questions",
    Action.TRAIN: lambda arguments, command: f"train a new one with {command('train')}",
    Action.RESTART_TRAINING: lambda arguments, command: (
        f"to drop that training and start again: {command('train', '--restart')}"
    ),
    Action.LIST_ADAPTERS: lambda arguments, command: f"{command('adapters', 'list')} lists the adapters",
    Action.LIST_IMPORTS: lambda arguments, command: f"{command('imports', 'list')} lists the imports",
    Action.GRANT_CONSENT: lambda arguments, command: (
        f"to allow it, run {command('augment', 'consent', *_consent_options(arguments))}"
    ),
    Action.RAISE_MAX_TOKENS: lambda arguments, command: (
        "raise --max-tokens, or let the server answer without reasoning"
    ),
    Action.OMIT_REQUEST_FIELD: lambda arguments, command: (
        f"leave it out with --without-field {arguments.get('field', 'NAME')}"
    ),
    Action.RUN_BENCHMARK: lambda arguments, command: (
        f"run {command('benchmark', '--out', arguments.get('out', 'FILE'))} first"
    ),
    Action.RUN_STUDY: lambda arguments, command: (
        f"run {command('study', 'run', arguments.get('folder', 'FOLDER'))} first"
    ),
    Action.RUN_LAMP: lambda arguments, command: f"run {command('lamp', 'run', *_lamp_options(arguments))} first",
}


def error_line(error: UserError, profile: ProfileOptions | None = None) -> str:
    """Return an error on one line, with the command that remedies it.

    Args:
        error: The error.
        profile: The profile that the command would work on; None for the default.
    """
    if error.remedy is None:
        return error.line()
    sentences = [remedy_sentence(error.remedy, profile)]
    if error.hint is not None:
        sentences.insert(0, error.hint)
    return error.line("; ".join(sentences))


def remedy_sentence(remedy: Remedy, profile: ProfileOptions | None = None) -> str:
    """Return how to carry out a remedy on the command line.

    Args:
        remedy: What to do.
        profile: The profile to do it with; None for the default.
    """
    return _SENTENCES[remedy.action](remedy.arguments, (profile or ProfileOptions()).command)


def _init_options() -> list[str]:
    """Return the options that `init` needs; only on a Mac has it a default model."""
    return [] if sys.platform == "darwin" else ["--model", "MODEL"]


def _consent_options(arguments: Mapping[str, str]) -> list[str]:
    options = ["--server", arguments["server"], "--server-model", arguments["model"]]
    return options + (["--out", arguments["out"]] if "out" in arguments else [])


def _lamp_options(arguments: Mapping[str, str]) -> list[str]:
    options = ["--task", "TASK", "--questions", "FILE", "--method", "NAME"]
    return options + (["--out", arguments["folder"]] if "folder" in arguments else [])
