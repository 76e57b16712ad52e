"""Preload a tuned BLAS when MLX is about to be imported.

`blas.preload` has an effect only before `mlx.core` is imported. An import hook calls it at that moment, so that a
program that never imports MLX, such as the command line's help, does not load a BLAS.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _PreloadBlas:
    """A meta path finder that finds `mlx.core` as the other finders do, and preloads the BLAS before it is loaded."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        if fullname != "mlx.core":
            return None
        # Python holds its global import lock here: an import could deadlock with a thread that needs this lock.
        for finder in sys.meta_path:
            if finder is not cls and (spec := finder.find_spec(fullname, path, target)) is not None:
                _preload_before_loading(spec.loader)
                return spec
        return None


def _preload_before_loading(loader: Any) -> None:
    """Let a loader preload the BLAS before it creates its module."""
    create_module = loader.create_module

    def create_after_preload(spec: ModuleSpec) -> ModuleType | None:
        from mlx_personal.runtime import blas, blas_threads

        blas.preload()
        blas_threads.start_measuring()
        module: ModuleType | None = create_module(spec)
        return module

    loader.create_module = create_after_preload


def install() -> None:
    """Install the import hook on Linux, unless MLX has already been imported."""
    if sys.platform == "linux" and "mlx.core" not in sys.modules and _PreloadBlas not in sys.meta_path:
        sys.meta_path.insert(0, _PreloadBlas)
