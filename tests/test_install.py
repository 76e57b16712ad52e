"""Installations: every data file, the kernels from inside and outside a clone's root, and no heavy dependency."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest

from tests.support.paths import KERNEL_SOURCES, ROOT

# Prints where the package is and where it finds its Metal sources, having read one of them.
LOCATE = """
from pathlib import Path
import mlx_personal
from mlx_personal.kernels import build
header, body = build.read_source("nearest")
assert "simdgroup" in body
print(mlx_personal.__file__)
print(build.find_sources(Path(build.__file__).parent))
"""


def locate(cwd: Path, python_path: Path | None = None) -> tuple[Path, Path]:
    """Return the package's folder and its Metal sources' folder, as Python started in `cwd` finds them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if python_path is not None:
        environment["PYTHONPATH"] = str(python_path)
    done = subprocess.run([sys.executable, "-c", LOCATE], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    package, sources = map(Path, done.stdout.split())
    return package.parent, sources


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_a_clone_uses_its_own_package_and_kernels() -> None:
    assert locate(ROOT) == (ROOT / "mlx_personal", KERNEL_SOURCES)


def test_an_installation_finds_its_kernels_outside_the_clone(tmp_path: Path) -> None:
    package, sources = locate(tmp_path)
    editable = package == ROOT / "mlx_personal"
    assert sources == (KERNEL_SOURCES if editable else package / "kernels" / "metal")


@pytest.mark.slow
def test_a_plain_installation_finds_its_kernels_inside_and_outside_the_clone(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site-packages", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(site)
    elsewhere.mkdir()
    assert locate(elsewhere, site) == (site / "mlx_personal", site / "mlx_personal" / "kernels" / "metal")
    assert locate(ROOT, site) == (ROOT / "mlx_personal", KERNEL_SOURCES)


@pytest.mark.slow
def test_a_wheel_contains_every_file_that_is_read_at_run_time(wheel: Path) -> None:
    contents = set(zipfile.ZipFile(wheel).namelist())
    sources = [p for p in (ROOT / "mlx_personal").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {str(p.relative_to(ROOT)) for p in sources} <= contents
    kernels = [p for p in KERNEL_SOURCES.iterdir() if p.suffix in (".metal", ".h")]
    assert {f"mlx_personal/kernels/metal/{p.name}" for p in kernels} <= contents
    assert wheel.stat().st_size < 12e6


def test_heavy_packages_are_extras() -> None:
    core = [requirement for requirement in requires("mlx-personal") or [] if "extra ==" not in requirement]
    names = {re.split(r"[<>=; ]", requirement)[0] for requirement in core}
    libraries = {"mlx", "mlx[cpu]", "mlx-lm", "gguf", "jinja2", "tokenizers", "numpy", "scipy-openblas32", "ijson"}
    assert names == {*libraries, "click", "rich", "rouge-score"}


def test_the_package_works_without_its_extras() -> None:
    code = "import sys; sys.modules['sentence_transformers'] = None; sys.modules['torch'] = None\n"
    code += "from mlx_personal import Dialogue, Personalizer; import mlx_personal.cli, mlx_personal.demo"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
