"""Lazy exports of a package (PEP 562): a name is imported when it is first used.

`from mlx_personal.finetune import LoRAConfig` then imports `finetune.config` and not MLX. A package whose submodule and
export share a name cannot use this, as importing the submodule sets the attribute.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping


def lazy_exports(package: str, exports: Mapping[str, str]) -> Callable[[str], object]:
    """Return the `__getattr__` of a package that imports its exports lazily.

    Args:
        package: The package's `__name__`.
        exports: Maps each exported name to the submodule that defines it, such as `{"fuse": "merging"}`.
    """

    def get_attribute(name: str) -> object:
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{exports[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next look-up finds it without this function
        return value

    return get_attribute
