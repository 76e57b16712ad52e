"""Load a tuned BLAS for MLX on Linux CPUs. On a Mac this module does nothing, because MLX uses Accelerate.

MLX's CPU wheel for Linux contains the reference BLAS, which multiplies at about 5 GFLOP/s. libmlx calls three BLAS
functions. A tuned library that is loaded globally before `mlx.core` replaces them: it is about 35 times as fast, with
the same results up to rounding. Two libraries are tried: the system's OpenBLAS, then the PyPI package scipy-openblas32.
The latter's symbols have a prefix, which a shim of three functions removes; the shim is compiled once with the system's
C compiler.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

SYSTEM_LIBRARY = "libopenblas.so.0"

# All arguments of the three functions have at most the size of a pointer, so each is forwarded unchanged.
_SHIM = r"""
#define GEMM_ARGS(T, S) \
    int o, int ta, int tb, int m, int n, int k, S alpha, const T *a, int lda, const T *b, int ldb, S beta, T *c, int ldc
#define PASS o, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc
void scipy_cblas_sgemm(GEMM_ARGS(float, float));
void scipy_cblas_dgemm(GEMM_ARGS(double, double));
void scipy_cblas_cgemm(GEMM_ARGS(void, const void *));
void cblas_sgemm(GEMM_ARGS(float, float)) { scipy_cblas_sgemm(PASS); }
void cblas_dgemm(GEMM_ARGS(double, double)) { scipy_cblas_dgemm(PASS); }
void cblas_cgemm(GEMM_ARGS(void, const void *)) { scipy_cblas_cgemm(PASS); }
"""


@dataclass(frozen=True)
class Blas:
    """The library that multiplies matrices.

    Attributes:
        name: Name of the library.
        tuned: Whether it is a tuned library.
        reason: Why it is not a tuned library; empty if it is.
    """

    name: str
    tuned: bool
    reason: str = ""


def preload() -> Blas:
    """Load a tuned BLAS into the process, once. This has no effect after `mlx.core` has been imported.

    Returns:
        The library in use.
    """
    global _current
    if _current is None:
        _current = _load()
        logger.debug("BLAS: %s %s", _current.name, _current.reason)
    return _current


_current: Blas | None = None
_library: ctypes.CDLL | None = None


def set_thread_count(count: int) -> None:
    """Set the number of threads of OpenBLAS; this does nothing for another library.

    MLX computes in a thread of its own, and the number must not change during a product there.

    Args:
        count: Number of threads.
    """
    if (mlx := sys.modules.get("mlx.core")) is not None:
        mlx.synchronize()
    for prefix in ("openblas", "scipy_openblas"):
        if _library is not None and hasattr(_library, f"{prefix}_set_num_threads"):
            getattr(_library, f"{prefix}_set_num_threads")(count)


def thread_count() -> int | None:
    """Return the number of threads of OpenBLAS; None for another library or if the number is not known."""
    for prefix in ("openblas", "scipy_openblas"):
        if _library is not None and hasattr(_library, f"{prefix}_get_num_threads"):
            return int(getattr(_library, f"{prefix}_get_num_threads")())
    return None


def processor_count() -> int | None:
    """Return the number of processors that OpenBLAS may use; None for another library or if it is not known."""
    for prefix in ("openblas", "scipy_openblas"):
        if _library is not None and hasattr(_library, f"{prefix}_get_num_procs"):
            return int(getattr(_library, f"{prefix}_get_num_procs")())
    return None


def _load() -> Blas:
    if sys.platform != "linux":
        return Blas("Accelerate", True)
    if "mlx.core" in sys.modules:
        return Blas("bundled with MLX", False, "mlx.core was imported before mlx_personal; import mlx_personal first")
    global _library
    try:
        _library = ctypes.CDLL(SYSTEM_LIBRARY, mode=ctypes.RTLD_GLOBAL)
        return Blas(SYSTEM_LIBRARY, True)
    except OSError:
        pass
    try:
        _library = ctypes.CDLL(str(_shim()), mode=ctypes.RTLD_GLOBAL)
        return Blas("scipy-openblas32", True)
    except (OSError, _UnavailableError) as error:
        return Blas("bundled with MLX", False, str(error))


class _UnavailableError(Exception):
    """The PyPI library cannot be used; the message says why."""


def _shim() -> Path:
    """Return the path of the compiled shim in the user's cache folder, and compile it if it is missing."""
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec is None or spec.origin is None:
        raise _UnavailableError("neither libopenblas nor the package scipy-openblas32 is installed")
    library = Path(spec.origin).parent / "lib" / "libscipy_openblas.so"
    # The shim is linked to the library's path, so each environment has its own shim, with a hash of the path as name.
    name = hashlib.sha256(f"{_SHIM}{library}".encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-personal"
    shim = folder / f"blas-{name}.so"
    if not shim.exists():
        _compile_shim(library, shim)
    return shim


def _compile_shim(library: Path, shim: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise _UnavailableError("no C compiler (cc) was found to link scipy-openblas32; install one, for example gcc")
    shim.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=shim.parent) as scratch:
        source, built = Path(scratch, "shim.c"), Path(scratch, "shim.so")
        source.write_text(_SHIM)
        files = ["-o", str(built), str(source), str(library), f"-Wl,-rpath,{library.parent}"]
        completed = subprocess.run([compiler, "-shared", "-fPIC", "-O1", *files], capture_output=True, text=True)
        if completed.returncode:
            messages = completed.stderr.strip().splitlines() or ["no message"]
            raise _UnavailableError(f"{compiler} could not link scipy-openblas32: {messages[-1]}")
        built.replace(shim)
