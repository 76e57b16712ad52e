"""A click group that imports the module of a command when the command is called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import click


class LazyCommand(click.Command):
    """The entry of a command in its group's help and completion, until the command is called.

    Args:
        name: Name of the command.
        target: Where the command is: the module and its attribute, as `package.module:attribute`.
        short_help: The line of the group's help; the same as the first sentence of the command's own help.
    """

    def __init__(self, name: str, target: str, short_help: str):
        super().__init__(name, short_help=short_help)
        self._target = target

    def load(self) -> click.Command:
        """Import and return the command."""
        module, _, attribute = self._target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


class LazyGroup(click.Group):
    """A group that lists its commands in the given order and imports one when it is called.

    Args:
        lazy_commands: Target and short help of each command, by its name; see `LazyCommand`.
    """

    def __init__(self, *args: Any, lazy_commands: Mapping[str, tuple[str, str]], **kwargs: Any):
        super().__init__(*args, **kwargs)
        for name, (target, short_help) in lazy_commands.items():
            self.add_command(LazyCommand(name, target, short_help))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order they were given."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the name and the command that `args` begin with, imported, and the remaining arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, loaded(command) if command is not None else None, rest


def loaded(command: click.Command) -> click.Command:
    """Return a command itself, imported if it was a `LazyCommand`."""
    return command.load() if isinstance(command, LazyCommand) else command


def subcommands(group: click.Group) -> Sequence[click.Command]:
    """Return all commands of a group, imported, in the order of its help."""
    ctx = click.Context(group)
    commands = (group.get_command(ctx, name) for name in group.list_commands(ctx))
    return [loaded(command) for command in commands if command is not None]
