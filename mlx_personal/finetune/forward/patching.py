"""Temporarily patch the `__call__` of individual modules of a model.

Python looks `__call__` up on the class, so a patched module becomes an instance of a subclass of its own class. Its
parameters, their names, and all other modules of that class stay as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.nn as nn

Patch = Callable[..., Any]
"""What replaces a module's `__call__`: it is called with the original `__call__` and then the arguments."""


@contextlib.contextmanager
def patched(patches: Sequence[tuple[nn.Module, Patch]]) -> Iterator[None]:
    """Patch modules inside the `with` block: `module(...)` becomes `patch(original_call, ...)`.

    Args:
        patches: Modules with their patches. Several patches of one module are nested, the last one outermost.

    Yields:
        Nothing.
    """
    with contextlib.ExitStack() as undo:
        for module, patch in patches:
            original_class = type(module)
            undo.callback(set_class, module, original_class)
            set_class(module, _subclass(original_class, patch))
        yield


def set_class(module: nn.Module, new_class: Any) -> None:
    """Make `module` an instance of `new_class`."""
    # `module.__class__ = ...` does not work: a module stores attributes that are assigned to it as parameters.
    object.__setattr__(module, "__class__", new_class)


def _subclass(original_class: Any, patch: Patch) -> Any:
    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return patch(lambda *a, **k: original_class.__call__(module, *a, **k), *args, **kwargs)

    return type(original_class.__name__, (original_class,), {"__call__": call})
