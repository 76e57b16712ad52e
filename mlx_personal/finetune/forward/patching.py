"""Temporarily patch the `__call__` of individual modules of a model.

Python looks up `__call__` on the class, so a patched module becomes an instance of a subclass of its own class. Its
parameters, their names, and all other modules of that class are not changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.nn as nn

Patch = Callable[..., Any]
"""Replaces a module's `__call__`; its arguments are the original `__call__` and the arguments of the call."""


@contextlib.contextmanager
def patched(patches: Sequence[tuple[nn.Module, Patch]]) -> Iterator[None]:
    """Patch modules inside the `with` block: `module(...)` becomes `patch(original_call, ...)`.

    Args:
        patches: Modules with their patches. Several patches of one module are nested, the last one outermost.
    """
    with contextlib.ExitStack() as undo:
        for module, patch in patches:
            original_class = type(module)
            undo.callback(set_class, module, original_class)
            set_class(module, _subclass(original_class, patch))
        yield


def set_class(module: nn.Module, new_class: Any) -> None:
    """Make a module an instance of another class.

    Args:
        module: The module.
        new_class: The class.
    """
    # `module.__class__ = ...` does not work: a module stores attributes that are assigned to it as parameters.
    object.__setattr__(module, "__class__", new_class)


def _subclass(original_class: Any, patch: Patch) -> Any:
    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return patch(lambda *a, **k: original_class.__call__(module, *a, **k), *args, **kwargs)

    return type(original_class.__name__, (original_class,), {"__call__": call})
