"""Run the kernels' tests on a mutant, in a copy of the package."""

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
    """Whether the tests detect a mutant.

    Attributes:
        killed: Whether a test failed.
        killer: The test that failed, and why.
        elapsed_s: Duration of the tests.
        cause: `wrong result`, a fault of the host machine (such as `race`, `compile` or `time limit`), or an exception.
    """

    killed: bool
    killer: str
    elapsed_s: float
    cause: str = ""


def with_includes(source: str) -> set[str]:
    """Return the names of a file and of all that it includes."""
    return {source}.union(*(with_includes(name) for name in INCLUDE.findall((KERNELS / source).read_text())))


def read_sources() -> dict[str, str]:
    """Return the text of every kernel and of every file that a kernel includes, by name."""
    names = set().union(*(with_includes(path.name) for path in KERNELS.glob("*.metal")))
    return {name: (KERNELS / name).read_text() for name in sorted(names)}


def tests_of(source: str) -> list[str]:
    """Return the test files of the kernels that a source file is a part of."""
    kernels = sorted(path for path in KERNELS.glob("*.metal") if source in with_includes(path.name))
    return [f"tests/kernels/test_{path.stem}.py" for path in kernels]


class ProjectCopy:
    """A copy of the package, of the kernels' sources and of the tests that run kernels.

    Args:
        folder: Folder of the copy.
        compiled: Folder of compiled kernels; several copies may share it.
    """

    def __init__(self, folder: Path, compiled: Path) -> None:
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
            # Precedes installed packages, one of which may be the original of this copy.
            "PYTHONPATH": str(self.folder),
            "XDG_CACHE_HOME": str(compiled),
            "OPENBLAS_NUM_THREADS": "1",
            "COLUMNS": "500",  # otherwise pytest cuts its summary off
        }
        code = "import mlx_personal.kernels; print(mlx_personal.kernels.__file__)"
        imported = self._run(["-c", code], None).stdout.strip()
        if Path(imported).parents[2] != self.folder:
            raise RuntimeError(f"the tests would import {imported} instead of the copy in {self.folder}")

    def run_tests(self, files: list[str], timeout_s: float | None = None) -> Verdict:
        """Run tests of kernels until one fails.

        Args:
            files: The test files.
            timeout_s: Time limit; tests that exceed it count as failed.

        Raises:
            RuntimeError: If the tests did not run.
        """
        start = time.perf_counter()
        options = ["-x", "-q", "--tb=no", "-m", "metal", "-p", "no:cacheprovider"]
        try:
            process = self._run(["-m", "pytest", *options, *files], timeout_s)
        except subprocess.TimeoutExpired:
            return Verdict(True, f"not done after {timeout_s:.0f} s", time.perf_counter() - start, "time limit")
        elapsed_s = time.perf_counter() - start
        if process.returncode == 0:
            return Verdict(False, "", elapsed_s)
        failure = FAILURE.search(process.stdout)
        if process.returncode != 1 or failure is None:
            raise RuntimeError(f"pytest did not run the tests:\n{process.stdout}{process.stderr}")
        cause = failure["fault"] or ("wrong result" if failure["wrong"] else failure["error"])
        return Verdict(True, f"{failure['test']}: {cause}", elapsed_s, cause)

    def try_mutant(self, mutant: Mutant, timeout_s: float | None = None) -> Verdict:
        """Run the tests of a mutant, then restore the source.

        Args:
            mutant: The mutant.
            timeout_s: Time limit.
        """
        path = self.kernels / mutant.file
        text = path.read_text()
        path.write_text(mutant.apply(text))
        try:
            return self.run_tests(tests_of(mutant.file), timeout_s)
        finally:
            path.write_text(text)

    def _run(self, arguments: list[str], timeout_s: float | None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
