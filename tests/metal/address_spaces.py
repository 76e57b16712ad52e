"""Asks clang, where it is installed, whether pointers cross between Metal's address spaces.

To g++ all memory is one. Metal refuses `const device float* p = x` when `x` is `constant`, which MLX makes it as soon
as the input has fewer than 8 elements. Clang knows address spaces, but not all the rest of Metal, so that only what it
says about them counts: a kernel that it cannot follow passes.
"""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

from . import compiler
from .fault import Fault
from .launch import Launch
from .translate import Declaration, replaced, threadgroup_declarations

FLAGS = [
    "-fsyntax-only",
    "-x",
    "c++",
    "-std=c++17",
    "-w",
    "-Wno-reserved-user-defined-literal",
    "-ferror-limit=0",
    "-fno-caret-diagnostics",
    f"-I{compiler.RUNTIME / 'address_spaces'}",
    f"-I{compiler.MLX_INCLUDE}",
    "-include",
    "mlx/backend/metal/kernels/utils.h",
]
# Clang spells a space as the macro that it was written with.
SPACES = re.compile(r"\b(?:device|constant|threadgroup)\b")
ERROR = re.compile(r"kernel\.metal:(\d+):\d+: error: (.*)")
INITIALISATION = re.compile(r"(?:cannot initialize|assigning|reference).*?'(.*?)'.*'(.*?)'")
CALL = re.compile(r"no matching function for call to '\w+'")
REFUSED = re.compile(r"cannot pass pointer to address space|no known conversion from '(.*\*)' to '(.*\*)'")


@functools.cache
def version() -> str:
    return compiler.run_compiler(["clang++", "--version"]).stdout


def to_clang(launch: Launch) -> str:
    """The kernel's text as clang takes it, line by line the same."""
    text = replaced(launch.text, threadgroup_declarations(launch.text, launch.name), Declaration.as_static)
    # Clang knows neither [[host_name]] nor an instantiation by decltype; an address instantiates as well.
    text = re.sub(r"^template \[\[host_name.*", "", text, flags=re.MULTILINE)
    return f"{text}\nvoid* entry = reinterpret_cast<void*>(&{launch.instance});\n"


def differ(types: tuple[str, ...]) -> bool:
    return len({tuple(SPACES.findall(t or "")) for t in types}) > 1


def crossings(errors: str) -> list[tuple[int, str]]:
    """Line and message of each error that is about address spaces. A call's reason stands in the notes below it."""
    found = []
    blocks = re.split(r"^(?=\S+: error: )", errors, flags=re.MULTILINE)
    for block in blocks:
        error = ERROR.search(block)
        if error is None:
            continue
        message = error[2]
        types = INITIALISATION.search(message)
        if types and differ(types.groups()):
            found.append((int(error[1]), message))
        elif CALL.match(message):
            reason = next((r for r in REFUSED.finditer(block) if r[1] is None or differ(r.groups())), None)
            if reason:
                found.append((int(error[1]), f"{message}: {reason[0]}"))
    return found


def check(launch: Launch) -> None:
    """Raises a Fault for the first pointer that changes its address space."""
    if shutil.which("clang++") is None:
        return
    text = to_clang(launch)

    def build(folder: Path, target: Path) -> None:
        source = folder / "kernel.metal"
        source.write_text(text)
        target.write_text(compiler.run_compiler(["clang++", *FLAGS, source]).stderr)

    errors = compiler.cached("spaces", " ".join(FLAGS) + version() + text, ".txt", build).read_text()
    for number, message in crossings(errors):
        line = launch.text.splitlines()[number - 1]
        raise Fault("address space", message, launch.name, number, line)
