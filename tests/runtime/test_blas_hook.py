"""The import hook that preloads the BLAS of MLX on Linux."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the hook is for Linux")


def test_finding_mlx_imports_nothing_and_loading_it_preloads() -> None:
    # Python holds its global import lock while it finds a module. The hook once imported `blas` there, and threads that
    # imported other modules at the same time waited for each other for ever.
    code = """
import importlib.util
import sys

import mlx_personal

importlib.import_module("mlx")
before = set(sys.modules)
assert importlib.util.find_spec("mlx.core") is not None
assert set(sys.modules) == before, set(sys.modules) - before

import mlx.core
from mlx_personal.runtime import blas

assert blas._current is not None
assert "imported before" not in blas._current.reason
assert mlx.core.add(1, 2).item() == 3
"""
    subprocess.run([sys.executable, "-c", code], check=True)
