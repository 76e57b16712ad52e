"""Compile the machine, the prelude and the kernels with g++, each once: file names contain a hash of all inputs."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx

from .fault import Fault
from .launch import Launch
from .translate import to_cpp, without_comments

RUNTIME = Path(__file__).parent / "runtime"
INCLUDE = RUNTIME / "include"
# MLX puts its own headers before each kernel; they are part of its wheel.
MLX_INCLUDE = Path(mx.__file__).parent / "include"

OLDEST_COMPILER = 12
UNKNOWN_NAME = re.compile(r"was not declared|has no member named|is not a member of|does not name a type|No such file")
MACHINE_FLAGS = ["-std=c++17", "-O2", "-g1", "-fno-omit-frame-pointer", "-rdynamic"]
KERNEL_FLAGS = [
    "-std=gnu++17",
    "-O0",  # at -O1 the compiler already exploits undefined behavior
    "-g1",
    "-gdwarf-4",  # addr2line confuses the files of version 5
    "-fPIC",
    "-w",
    "-fno-omit-frame-pointer",  # needed for reports
    "-fno-exceptions",
    "-fno-rtti",
    "-fsingle-precision-constant",  # 1.0 is a float in Metal
    "-ffp-contract=off",
    "-fexcess-precision=16",  # round half at every step
    "-ftrivial-auto-var-init=pattern",  # an unset private variable is garbage, the same each time
    # Instrumented, but not linked with the sanitizers: runtime/hooks.cpp defines their functions.
    "-fsanitize=thread",
    "--param=tsan-instrument-func-entry-exit=0",
    "-fsanitize=signed-integer-overflow,shift,integer-divide-by-zero,bounds-strict,alignment,float-cast-overflow,"
    "bool,return,unreachable,vla-bound",
    f"-I{INCLUDE}",
    f"-I{RUNTIME}",
    f"-I{MLX_INCLUDE}",
]
# Flags for warnings about unset variables, which g++ detects only when it optimizes.
UNSET_FLAGS = [
    "-std=gnu++17",
    "-O1",
    "-Wuninitialized",
    "-Wmaybe-uninitialized",
    "-fno-exceptions",
    "-fno-rtti",
    f"-I{INCLUDE}",
    f"-I{RUNTIME}",
    f"-I{MLX_INCLUDE}",
]
UNSET = re.compile(r"kernel\.metal:(\d+):\d+: warning: (.*) \[-W(?:maybe-)?uninitialized\]")


@functools.cache
def why_not() -> str | None:
    """Return why kernels cannot run on this machine, or None if they can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the host machine needs Linux on x86-64"
    if shutil.which("g++") is None:
        return "the host machine needs g++"
    version = run_compiler(["g++", "-dumpversion"]).stdout.strip()
    if int(version.split(".")[0]) < OLDEST_COMPILER:
        return f"the host machine needs g++ {OLDEST_COMPILER} or later, for 16-bit floats; this is {version}"
    return None


@functools.cache
def cache_folder() -> Path:
    """Return the folder of compiled files."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "mlx-metal-on-host"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def fingerprint() -> str:
    """Return a hash of everything but the kernel that a compiled kernel depends on."""
    digest = hashlib.sha256()
    digest.update(subprocess.run(["g++", "--version"], capture_output=True, check=True).stdout)
    digest.update(" ".join(MACHINE_FLAGS + KERNEL_FLAGS + UNSET_FLAGS + [importlib.metadata.version("mlx")]).encode())
    for path in sorted(p for p in RUNTIME.rglob("*") if p.is_file()):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def cached(kind: str, text: str, suffix: str, build: Callable[[Path, Path], None]) -> Path:
    """Return the file that `build(folder, target)` makes from `text`, now or earlier, in this process or another."""
    key = hashlib.sha256(f"{fingerprint()}\n{kind}\n{text}".encode()).hexdigest()[:32]
    path = cache_folder() / f"{kind}-{key}{suffix}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
            target = Path(folder) / path.name
            build(Path(folder), target)
            os.replace(target, path)
    return path


def run_compiler(arguments: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False)


def must_compile(arguments: Sequence[str | Path]) -> None:
    done = run_compiler(arguments)
    if done.returncode != 0:
        raise RuntimeError(f"the host machine itself does not compile:\n{done.stderr}")


def machine() -> Path:
    """Return the program that runs compiled kernels."""

    def build(_: Path, target: Path) -> None:
        must_compile(["g++", *MACHINE_FLAGS, *sorted(RUNTIME.glob("*.cpp")), "-o", target, "-ldl"])

    return cached("machine", "", "", build)


def prelude(flags: list[str]) -> Path:
    """Return the precompiled header before each kernel, by the name of the header itself, as g++ expects it."""

    def build(_: Path, target: Path) -> None:
        must_compile(["g++", *flags, "-x", "c++-header", INCLUDE / "prelude.h", "-o", target])

    return cached("prelude", " ".join(flags), ".h.gch", build).with_suffix("")


def kernel_library(launch: Launch) -> Path:
    """Compile the kernel of a launch to a library; what Metal would not compile raises a Fault."""
    refuse_double(launch)
    text = to_cpp(launch)

    def build(folder: Path, target: Path) -> None:
        source, compiled_source = folder / "kernel.metal", folder / "kernel.o"
        source.write_text(text)
        flags: list[str | Path] = [*KERNEL_FLAGS, "-include", prelude(KERNEL_FLAGS), "-x", "c++", "-c"]
        compiled = run_compiler(["g++", *flags, source, "-o", compiled_source])
        if compiled.returncode != 0:
            raise compile_fault(launch, compiled.stderr)
        refuse_unset(launch, source)
        # Linked separately, so that no flag makes the linker add the sanitizers' libraries.
        must_compile(["g++", "-shared", compiled_source, "-o", target, "-lm"])

    return cached("kernel", text, ".so", build)


def refuse_double(launch: Launch) -> None:
    for number, line in enumerate(without_comments(launch.text).splitlines(), 1):
        if re.search(r"\bdouble\b", line):
            raise Fault("double", "Metal has no double", launch.name, number, launch.text.splitlines()[number - 1])


def refuse_unset(launch: Launch, source: Path) -> None:
    flags: list[str | Path] = [*UNSET_FLAGS, "-include", prelude(UNSET_FLAGS), "-x", "c++", "-S"]
    unset = UNSET.search(run_compiler(["g++", *flags, source, "-o", os.devnull]).stderr)
    if unset:
        number = int(unset[1])
        raise Fault("unset variable", unset[2], launch.name, number, launch.text.splitlines()[number - 1])


def compile_fault(launch: Launch, errors: str) -> Fault:
    """Return the first error in the kernel's own text, or else the first error."""
    lines = launch.text.splitlines()
    for match in re.finditer(r"kernel\.metal:(\d+):\d+: (?:fatal )?error: (.*)$", errors, re.MULTILINE):
        number = int(match[1])
        detail = match[2]
        if UNKNOWN_NAME.search(detail):
            detail += " (the host machine may lack a name that Metal has)"
        return Fault("compile", detail, launch.name, number, lines[number - 1])
    first = re.search(r"error: (.*)", errors)
    return Fault("compile", first[1] if first else errors, launch.name)


def source_line(library: Path, offsets: list[int]) -> int | None:
    """Return the line of the generated text that the innermost of these code offsets belongs to."""
    if not offsets or shutil.which("addr2line") is None:
        return None
    output = run_compiler(["addr2line", "-i", "-e", library, *[hex(offset) for offset in offsets]]).stdout
    match = re.search(r"kernel\.metal:(\d+)", output)
    return int(match[1]) if match else None
