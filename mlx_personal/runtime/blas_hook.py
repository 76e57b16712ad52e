"""Preload a tuned BLAS when MLX is about to be imported.

`blas.preload` has an effect only before `mlx.core` is imported. An import hook calls it at that moment, so that a
program that never imports MLX, such as the command line's help, does not load a BLAS.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType


class _PreloadBlas:
    """A meta path finder that finds no module, and preloads the BLAS once before `mlx.core` is imported."""

    @classmethod
    def find_spec(cls, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /) -> None:
        if fullname == "mlx.core":
            sys.meta_path.remove(cls)
            from mlx_personal.runtime import blas

            blas.preload()


def install() -> None:
    """Install the import hook on Linux, unless MLX has already been imported."""
    if sys.platform == "linux" and "mlx.core" not in sys.modules and _PreloadBlas not in sys.meta_path:
        sys.meta_path.insert(0, _PreloadBlas)
