"""Options of `augment` and `lamp` about a server, the server that they describe, and the result of its requests."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from mlx_personal.cli.remedies import remedy_sentence
from mlx_personal.errors import Remedy, UserError

if TYPE_CHECKING:
    from mlx_personal.augmentation.server import Server


# Repeats `augmentation.server.OPTIONAL_FIELDS`, because importing that module would import other packages.
_OPTIONAL_FIELDS: Final = ("model", "temperature", "max_tokens", "seed")


def without_field_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--without-field` to a command; its parameter is `without_field`, a tuple."""
    return click.option(
        "--without-field",
        multiple=True,
        type=click.Choice(_OPTIONAL_FIELDS),
        help="Field that requests leave out, for a server that refuses it; can be given more than once.",
    )(function)


def make_server(
    url: str,
    model: str,
    key_variable: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    without_fields: Sequence[str] = (),
) -> Server:
    """Return the server at a URL.

    Args:
        url: URL of an OpenAI-compatible endpoint.
        model: Name of the model on that server.
        key_variable: Environment variable that holds the server's API key; None for a server that needs none. No other
            variable is read, because the key of one server must not reach another.
        temperature: Sampling temperature; None for the default.
        max_tokens: Maximum tokens of a response; None for the default.
        without_fields: Fields that requests leave out.
    """
    from mlx_personal.augmentation.server import Server

    key = None if key_variable is None else os.environ.get(key_variable)
    if key_variable is not None and not key:
        raise UserError("this environment variable is empty or not set", key_variable, "set it to the server's key")
    settings: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
    settings = {name: value for name, value in settings.items() if value is not None}
    try:
        return Server(url, model, key, **settings, omitted_fields=frozenset(without_fields))
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def request_message(message: str, remedy: Remedy | None) -> str:
    """Return the line on why responses of a server are missing, with the option that remedies it."""
    return message if remedy is None else f"{message}; {remedy_sentence(remedy)}"
