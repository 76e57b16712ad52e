"""What an installation brings: every data file, the kernels' package, and nothing heavy that was not asked for."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def test_the_kernels_are_installed_as_a_package_of_ours() -> None:
    import mlx_personal.kernels

    assert Path(mlx_personal.kernels.__file__).parent == ROOT / "mlx_personal" / "kernels"


def test_heavy_packages_are_extras() -> None:
    core = [r for r in requires("mlx-personal") if "extra ==" not in r]
    names = {re.split(r"[<>=; ]", r)[0] for r in core}
    assert names == {"mlx", "mlx[cpu]", "mlx-lm", "numpy", "click", "rich", "rouge-score", "scipy-openblas32"}


def test_the_package_works_without_its_extras() -> None:
    code = "import sys; sys.modules['sentence_transformers'] = None; sys.modules['torch'] = None\n"
    code += "from mlx_personal import Dialogue, Personalizer; import mlx_personal.cli, mlx_personal.demo"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_wheel_holds_every_file_that_is_read_at_run_time(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    sources = [p for p in (ROOT / "mlx_personal").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {str(p.relative_to(ROOT)) for p in sources} <= held
    kernels = [p for p in (ROOT / "kernels").iterdir() if p.suffix in (".metal", ".h")]
    assert {f"mlx_personal/kernels/metal/{p.name}" for p in kernels} <= held
    assert wheel.stat().st_size < 12e6
