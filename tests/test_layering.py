"""The house rule: a lower room never imports a higher one, and only one place loads a model or takes a lock."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mlx_personal

PACKAGE = Path(mlx_personal.__file__).parent
# From the ground up: a room may import itself and those above it in this list.
ROOMS = [
    "errors",
    "lazy_imports",
    "reporting",
    "dialogue",
    "runtime",
    "models",
    "jobs",
    "kernels",
    "storage",
    "profile",
    "http_client",
    "embedding",
    "scoring",
    "selection",
    "annotation",
    "synthesis",
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


def imported_rooms(source: Any) -> Iterator[Any]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("mlx_personal."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mlx_personal."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "mlx_personal":
            yield from (alias.name for alias in node.names if alias.name in ROOMS)


@pytest.mark.parametrize(
    "line",
    [
        "import mlx_personal.chat as c",
        "from mlx_personal import chat",
        "from mlx_personal.chat import x",
        "import mlx_personal.chat.x",
    ],
)
def test_every_form_of_import_is_seen(line: str) -> None:
    assert list(imported_rooms(f"def f():\n    import os\n    {line}\n")) == ["chat"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room: Any) -> None:
    folder = PACKAGE / room
    files = sorted(folder.glob("**/*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    assert files
    for file in files:
        for imported in imported_rooms(file.read_text()):
            assert ROOMS.index(imported) <= ROOMS.index(room), f"{file.name} imports {imported}"


# The benchmark of the collaboration runs its parts, as `lamp`'s method of that name.
@pytest.mark.parametrize(
    ("guest", "others"), [("benchmark", set()), ("augmentation", {"research"}), ("research", set())]
)
def test_a_guest_is_used_by_the_command_line_alone(guest: str, others: Any) -> None:
    users = [f for f in PACKAGE.glob("**/*.py") if guest in imported_rooms(f.read_text())]
    assert {f.relative_to(PACKAGE).parts[0] for f in users} <= {guest, "cli"} | others


def test_every_room_is_listed() -> None:
    found = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert found - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("mlx_lm.load(", "models/language_model.py"),
        ("sqlite3.connect", "storage/database.py"),
        ("httpx2", "http_client.py"),
        ("set_wired_limit", None),
    ],
)
def test_what_happens_in_one_place_only(name: str, home: str | None) -> None:
    holders = [str(f.relative_to(PACKAGE)) for f in PACKAGE.glob("**/*.py") if name in f.read_text()]
    assert holders == ([home] if home else [])


@pytest.mark.parametrize("word", ["pickle", "trust_remote_code=True", "import torch", "requests."])
def test_what_the_package_never_does(word: str) -> None:
    assert not [f.name for f in PACKAGE.glob("**/*.py") if word in f.read_text()]
