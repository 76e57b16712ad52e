"""The package's public names: complete, lazy, and the same whatever is imported first."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

import mlx_personal
from tests.support.cases import slow_cases

# The subpackage `finetune` is called like its function.
TRAIN_NOTHING = """
import mlx_personal
from tests.support.cases import slow_cases
{first}
from mlx_personal import LoRAConfig, finetune, load_language_model
try:
    finetune()
except TypeError as error:
    print(error)
import mlx_personal.finetune.config as config
from tests.support.cases import slow_cases
print(config.LoRAConfig is LoRAConfig, mlx_personal.finetune.LoRAConfig is LoRAConfig)
"""


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", mlx_personal.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(mlx_personal, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = mlx_personal.nothing  # type: ignore[attr-defined]


def test_importing_the_package_imports_neither_mlx_nor_transformers() -> None:
    code = "import sys, mlx_personal; print([m for m in ('mlx.core', 'transformers', 'numpy') if m in sys.modules])"
    assert run_python(code) == "[]\n"


@pytest.mark.parametrize(
    "first",
    [
        "import mlx_personal.finetune",
        *slow_cases("", "mlx_personal.Personalizer"),
    ],
)
def test_finetune_is_callable_whatever_was_imported_first(first: str) -> None:
    error, modules = run_python(TRAIN_NOTHING.format(first=first)).splitlines()
    assert error.startswith("finetune() missing ")
    assert modules == "True True"


def test_log_lines_are_dropped_unless_the_application_handles_them() -> None:
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("mlx_personal").handlers)
