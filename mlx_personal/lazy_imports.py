"""Lazy exports of a package (PEP 562): a name is imported when it is first used.

`from mlx_personal.finetune import LoRAConfig` then imports `finetune.config` and not MLX. A package whose submodule and
export share a name cannot use this for it, as importing the submodule sets the attribute.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType


def lazy_exports(package: str, exports: Mapping[str, str]) -> Callable[[str], object]:
    """Return the `__getattr__` of a package that imports its exports lazily.

    Args:
        package: The package's `__name__`.
        exports: Maps each exported name to the submodule that defines it, such as `{"LoRAConfig": "config"}`.
    """

    def get_attribute(name: str) -> object:
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{exports[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next lookup finds it without calling this function
        return value

    return get_attribute


def make_callable(package: str, function: str) -> None:
    """Make a package callable like one of its functions, for a package and a function of the same name.

    What `from mlx_personal import finetune` imports can then be called, whether or not the package
    `mlx_personal.finetune` was imported before.

    Args:
        package: The package's `__name__`.
        function: Name of the function, which may be a lazy export.
    """

    class CallablePackage(ModuleType):
        def __call__(self, *args: object, **kwargs: object) -> object:
            return getattr(self, function)(*args, **kwargs)

    sys.modules[package].__class__ = CallablePackage
