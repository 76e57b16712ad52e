"""Make the server that the options of `augment` and `lamp` describe."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from mlx_personal.errors import UserError

if TYPE_CHECKING:
    from mlx_personal.augmentation.server import Server


def make_server(url: str, model: str, key_variable: str | None = None, temperature: float | None = None) -> Server:
    """Return the server at a URL.

    Args:
        url: URL of an OpenAI-compatible endpoint.
        model: Name of the model on that server.
        key_variable: Environment variable that holds the server's API key; None for a server that needs none. No other
            variable is read, because the key of one server must not reach another.
        temperature: Sampling temperature; None for the default.
    """
    from mlx_personal.augmentation.server import Server

    key = None if key_variable is None else os.environ.get(key_variable)
    if key_variable is not None and not key:
        raise UserError("this environment variable is empty or not set", key_variable, "set it to the server's key")
    settings: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    try:
        return Server(url, model, key, **settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
