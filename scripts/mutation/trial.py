"""A copy of the package and of its kernels' tests, in which a mutant takes a kernel's place and the tests are run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .mutants import Mutant

ROOT = Path(__file__).parent.parent.parent
KERNELS = ROOT / "kernels"

INCLUDE = re.compile(r'^#include "(.+)"$', re.M)
# As in "FAILED tests/kernels/test_nearest.py::test_large_banks[512] - metal.fault.Fault: race in kernel ...".
FAILURE = re.compile(
    r"^FAILED [^:]*::(?P<test>.*?) - "
    r"(?:(?:\w+\.)*Fault: (?P<fault>.+?) in |(?P<wrong>assert|AssertionError)\b|(?P<error>\w+))",
    re.M,
)


@dataclass(frozen=True)
class Verdict:
    killed: bool
    by: str  # the test that failed and why
    seconds: float
    cause: str = ""  # "wrong result", the machine's fault ("race", "compile", "time limit"...) or an exception


def parts(source: str) -> set[str]:
    """The file and all that it includes."""
    return {source}.union(*(parts(name) for name in INCLUDE.findall((KERNELS / source).read_text())))


def sources() -> dict[str, str]:
    """The text of every kernel and of what kernels include, by the file's name."""
    names = set().union(*(parts(path.name) for path in KERNELS.glob("*.metal")))
    return {name: (KERNELS / name).read_text() for name in sorted(names)}


def tests_of(source: str) -> list[str]:
    """The test files of the kernels that a source is a part of."""
    kernels = sorted(path for path in KERNELS.glob("*.metal") if source in parts(path.name))
    return [f"tests/kernels/test_{path.stem}.py" for path in kernels]


class Copy:
    """The package with the kernels' sources, and the tests that run kernels, all in one folder."""

    def __init__(self, folder: Path, compiled: Path) -> None:
        """`compiled` is where compiled kernels are kept; several copies may share it."""
        self.folder = folder.resolve()
        self.kernels = self.folder / "kernels"
        no_caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "mlx_personal", self.folder / "mlx_personal", ignore=no_caches)
        shutil.copytree(KERNELS, self.kernels, ignore=no_caches)
        for tests in ("tests/kernels", "tests/metal", "tests/support"):
            shutil.copytree(ROOT / tests, self.folder / tests, ignore=no_caches)
        shutil.copy(ROOT / "tests" / "__init__.py", self.folder / "tests")
        shutil.copy(ROOT / "pyproject.toml", self.folder)
        self.environment = {
            **os.environ,
            # Before what is installed, which may be this very project's own folder.
            "PYTHONPATH": str(self.folder),
            "XDG_CACHE_HOME": str(compiled),
            "OPENBLAS_NUM_THREADS": "1",
            "COLUMNS": "500",  # so that pytest does not cut its summary off
        }
        program = "import mlx_personal.kernels; print(mlx_personal.kernels.__file__)"
        imported = self._run(["-c", program], None).stdout.strip()
        if Path(imported).parents[2] != self.folder:
            raise RuntimeError(f"the tests would import {imported} instead of the copy in {self.folder}")

    def _run(self, arguments: list[str], limit: float | None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=limit, check=False
        )

    def test(self, files: list[str], limit: float | None = None) -> Verdict:
        """Runs these tests of kernels up to the first that fails."""
        begin = time.perf_counter()
        options = ["-x", "-q", "--tb=no", "-m", "metal", "-p", "no:cacheprovider"]
        try:
            done = self._run(["-m", "pytest", *options, *files], limit)
        except subprocess.TimeoutExpired:
            return Verdict(True, f"not done after {limit:.0f} s", time.perf_counter() - begin, "time limit")
        seconds = time.perf_counter() - begin
        if done.returncode == 0:
            return Verdict(False, "", seconds)
        failure = FAILURE.search(done.stdout)
        if done.returncode != 1 or failure is None:
            raise RuntimeError(f"pytest did not run the tests:\n{done.stdout}{done.stderr}")
        cause = failure["fault"] or ("wrong result" if failure["wrong"] else failure["error"])
        return Verdict(True, f"{failure['test']}: {cause}", seconds, cause)

    def try_mutant(self, mutant: Mutant, limit: float | None = None) -> Verdict:
        """Whether the tests notice the mutant; afterwards the copy is as before."""
        path = self.kernels / mutant.file
        text = path.read_text()
        path.write_text(mutant.applied(text))
        try:
            return self.test(tests_of(mutant.file), limit)
        finally:
            path.write_text(text)
