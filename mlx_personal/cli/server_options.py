"""The server that `augment` and `lamp` name, from their options."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from mlx_personal.errors import UserError

if TYPE_CHECKING:
    from mlx_personal.augmentation.server import Server


def server_named(url: str, model: str, key_variable: str | None = None, temperature: float | None = None) -> Server:
    """The server at `url`. Its key is in the environment variable that is named, and never in another: a key of one
    server must not reach the next."""
    from mlx_personal.augmentation.server import Server

    key = None if key_variable is None else os.environ.get(key_variable)
    if key_variable is not None and not key:
        raise UserError("this environment variable is empty or not set", key_variable, "put the server's key into it")
    settings: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    try:
        return Server(url, model, key, **settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
