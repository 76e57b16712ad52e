"""The layering rule: a package imports only packages of lower layers, and some things happen in one place only."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import mlx_personal
from mlx_personal.cli.main import main

ROOT = Path(mlx_personal.__file__).parent
# From the lowest layer up: a module or package imports itself and those above it in this list.
LAYERS = [
    "lazy_imports",
    "errors",
    "progress",
    "reporting",
    "dialogue",
    "runtime",
    "storage",
    "importers",
    "models",
    "jobs",
    "kernels",
    "profile",
    "http_client",
    "embedding",
    "scoring",
    "selection",
    "annotation",
    "synthesis",
    "memory",
    "finetune",
    "evaluation",
    "chat",
    "config",
    "personalizer",
    "demo",
    "benchmark",
    "augmentation",
    "research",
    "cli",
]
# Components that the personalization loop does not need, and what may import them. The LaMP benchmark in `research`
# runs the steps of `augmentation` as one of its methods.
OPTIONAL_COMPONENTS = {"benchmark": {"cli"}, "augmentation": {"cli", "research"}, "research": {"cli"}}
# Texts outside `cli` that name a command or an option of the command line. Each needs a reason.
COMMAND_TEXTS: dict[str, str] = {}


def imported_packages(node: ast.AST) -> Iterator[str]:
    """Yield the packages of mlx_personal that the code under a node imports."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (a.name.split(".")[1] for a in child.names if a.name.startswith("mlx_personal."))
        elif isinstance(child, ast.ImportFrom) and child.module and child.module.startswith("mlx_personal."):
            yield child.module.split(".")[1]
        elif isinstance(child, ast.ImportFrom) and child.module == "mlx_personal":
            yield from (alias.name for alias in child.names if alias.name in LAYERS)


def imported_names(node: ast.AST) -> Iterator[str]:
    """Yield the full names of all modules, and of names in them, that the code under a node imports."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)


def modules(package: str = "") -> list[Path]:
    folder = ROOT / package
    return sorted(folder.glob("**/*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


@functools.cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@functools.cache
def packages_of(file: Path) -> frozenset[str]:
    return frozenset(imported_packages(parse(file)))


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "line",
    [
        "import mlx_personal.chat as c",
        "from mlx_personal import chat",
        "from mlx_personal.chat import x",
        "import mlx_personal.chat.x",
    ],
)
def test_every_form_of_import_is_recognized(line: str) -> None:
    assert list(imported_packages(ast.parse(f"def f():\n    import os\n    {line}\n"))) == ["chat"]


def test_every_package_has_a_layer() -> None:
    packages = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert packages - {"__init__"} == set(LAYERS)


@pytest.mark.parametrize("package", LAYERS)
def test_a_package_imports_only_lower_layers(package: str) -> None:
    files = modules(package)
    assert files
    for file in files:
        for imported in packages_of(file):
            assert LAYERS.index(imported) <= LAYERS.index(package), f"{name_of(file)} imports {imported}"


@pytest.mark.parametrize(("component", "importers"), OPTIONAL_COMPONENTS.items())
def test_an_optional_component_is_imported_by_the_command_line_only(component: str, importers: set[str]) -> None:
    files = [file for file in modules() if component in packages_of(file)]
    assert {file.relative_to(ROOT).parts[0] for file in files} <= {component} | importers


@pytest.mark.parametrize(
    ("package", "independent_of"),
    [
        ("research/study", ["mlx_personal.research.lamp", "mlx_personal.augmentation"]),
        ("research/lamp", ["mlx_personal.research.study"]),
    ],
)
def test_a_research_package_is_independent_of_the_others(package: str, independent_of: list[str]) -> None:
    for file in modules(package):
        names = set(imported_names(parse(file)))
        assert not {name for name in names if any(f"{name}.".startswith(f"{other}.") for other in independent_of)}, (
            name_of(file)
        )


@pytest.mark.parametrize("component", OPTIONAL_COMPONENTS)
def test_the_command_line_imports_optional_components_only_inside_functions(component: str) -> None:
    for file in modules("cli"):
        at_import = [node for node in parse(file).body if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.If)]
        assert component not in {name for node in at_import for name in imported_packages(node)}, name_of(file)


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("mlx_lm.load(", "models/safe_loading.py"),
        ("httpx2", "http_client.py"),
        ("set_wired_limit", None),
    ],
)
def test_some_things_happen_in_one_module_only(text: str, module: str | None) -> None:
    assert [name_of(file) for file in modules() if text in file.read_text()] == ([module] if module else [])


def test_databases_are_opened_by_storage_only() -> None:
    files = [name_of(file) for file in modules() if "sqlite3.connect" in file.read_text()]
    assert files == ["storage/database.py", "storage/foreign_database.py"]


@pytest.mark.parametrize(
    "text", ["pickle", "trust_remote_code=True", "import torch", "import requests", "from requests"]
)
def test_some_things_never_happen(text: str) -> None:
    assert not [name_of(file) for file in modules() if text in file.read_text()]


def string_literals(tree: ast.Module) -> Iterator[str]:
    """Yield the string literals of a module, including the constant parts of f-strings, without the docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def command_pattern() -> re.Pattern[str]:
    """Match a command of the program, such as `mlx-personal run`, or an option, such as `--json`."""
    assert isinstance(main, click.Group)
    commands = "|".join(main.list_commands(click.Context(main)))
    return re.compile(rf"mlx-personal (?:{commands})\b|(?<![\w-])--[a-z]")


@pytest.mark.parametrize("text", ["run `mlx-personal review` first", "use --json", "--home"])
def test_commands_and_options_are_recognized(text: str) -> None:
    pattern = command_pattern()
    assert pattern.search(text)
    assert not pattern.search("this version of mlx-personal cannot; pip install 'mlx-personal[lamp]' -- or |---|")


@pytest.mark.parametrize("package", [package for package in LAYERS if package != "cli"])
def test_library_code_names_no_command_and_no_option(package: str) -> None:
    pattern = command_pattern()
    for file in modules(package):
        texts = [text for text in string_literals(parse(file)) if pattern.search(text)]
        assert texts == [text for text in texts if text in COMMAND_TEXTS], (
            f"{name_of(file)} names a command or an option; raise UserError with a remedy, see mlx_personal/errors.py"
        )


def test_command_texts_are_still_there() -> None:
    missing = set(COMMAND_TEXTS)
    for file in modules() if missing else []:
        missing -= set(string_literals(parse(file)))
    assert not missing
