"""Preload a tuned BLAS when MLX is about to be imported.

`blas.preload` has an effect only before `mlx.core` is imported. An import hook calls it at that moment, so that
programs that import this package and never MLX, such as the help of the command line, do not pay for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType


class _PreloadBlas:
    """A meta path finder that finds nothing and preloads the BLAS once, before `mlx.core`."""

    @classmethod
    def find_spec(cls, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /) -> None:
        if fullname == "mlx.core":
            sys.meta_path.remove(cls)
            from mlx_personal.runtime import blas

            blas.preload()


def install() -> None:
    """Install the import hook, where MLX needs one and has not been imported yet."""
    if sys.platform == "linux" and "mlx.core" not in sys.modules and _PreloadBlas not in sys.meta_path:
        sys.meta_path.insert(0, _PreloadBlas)
