"""Lazy exports of the packages: every exported name is found, whatever was imported before."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_personal
from mlx_personal.lazy_imports import lazy_exports

FOLDER = Path(mlx_personal.__file__).parent
PACKAGES = [
    ".".join(("mlx_personal", *file.parent.relative_to(FOLDER).parts))
    for file in sorted(FOLDER.glob("**/__init__.py"))
    if "lazy_exports(" in file.read_text("utf-8")
]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_export_is_found(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        module.nosuch  # noqa: B018 - looked up


@pytest.mark.parametrize("package", PACKAGES)
def test_names_for_type_checkers_are_the_lazy_ones(package: str) -> None:
    module = importlib.import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported <= set(module.__all__)
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            if f"mlx_personal.{alias.name}" in PACKAGES:
                continue  # `mlx_personal.finetune` is the package, which can be called like its function
            assert getattr(module, alias.name) is getattr(importlib.import_module(str(node.module)), alias.name)


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "mlx_personal"])
def test_no_export_has_the_name_of_a_submodule(package: str) -> None:
    module = importlib.import_module(package)
    folder = Path(str(module.__file__)).parent
    submodules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not set(module.__all__) & submodules


def test_an_import_of_the_package_imports_no_mlx() -> None:
    code = "import sys, mlx_personal, mlx_personal.config; mlx_personal.config.Config()"
    code += "; sys.exit(bool({'mlx.core', 'mlx_lm', 'transformers', 'rouge_score'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_export_is_imported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    package = sys.modules["mlx_personal.evaluation"] = importlib.import_module("mlx_personal.evaluation")
    monkeypatch.delitem(vars(package), "EvaluationConfig", raising=False)
    assert lazy_exports(package.__name__, {"EvaluationConfig": "config"})("EvaluationConfig") is not None
    assert "EvaluationConfig" in vars(package)
