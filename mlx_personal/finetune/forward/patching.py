"""Changes what calling single modules does, for a while: how this room reaches into mlx-lm's models.

Python looks `__call__` up on classes, never on instances, so a changed module becomes an instance of a subclass of its
own class. Parameters, their names and every other model stay as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.nn as nn


@contextlib.contextmanager
def patched(changes: Sequence[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Inside the `with`, `module(...)` is `change(call, ...)`, where `call` is what the module did before."""
    with contextlib.ExitStack() as undo:
        for module, change in changes:
            kind = type(module)
            undo.callback(set_class, module, kind)
            set_class(module, _changed(kind, change))
        yield


def set_class(module: nn.Module, kind: Any) -> None:
    """Makes `module` an instance of `kind`."""
    # Not `module.__class__ =`: a module takes what is assigned to it for a parameter.
    object.__setattr__(module, "__class__", kind)


def _changed(kind: Any, change: Callable[..., Any]) -> Any:
    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return change(lambda *a, **k: kind.__call__(module, *a, **k), *args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})
