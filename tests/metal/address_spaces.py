"""Check with clang, if it is installed, that no pointer crosses between Metal's address spaces.

g++ has only one address space. Metal rejects `const device float* p = x` if `x` is `constant`, which it is if the input
has fewer than 8 elements. Clang supports address spaces, but not all of Metal, so only its errors about address spaces
count: a kernel that it cannot parse passes.
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
# Clang writes an address space as the macro that the source uses.
SPACES = re.compile(r"\b(?:device|constant|threadgroup)\b")
ERROR = re.compile(r"kernel\.metal:(\d+):\d+: error: (.*)")
INITIALIZATION = re.compile(r"(?:cannot initialize|assigning|reference).*?'(.*?)'.*'(.*?)'")
CALL = re.compile(r"no matching function for call to '\w+'")
REFUSED = re.compile(r"cannot pass pointer to address space|no known conversion from '(.*\*)' to '(.*\*)'")


@functools.cache
def version() -> str:
    """Return the version of clang."""
    return compiler.run_compiler(["clang++", "--version"]).stdout


def to_clang(launch: Launch) -> str:
    """Translate the kernel's text for clang, with the same lines."""
    text = replaced(launch.text, threadgroup_declarations(launch.text, launch.name), Declaration.as_static)
    # Clang has neither [[host_name]] nor instantiation by decltype; taking an address instantiates too.
    text = re.sub(r"^template \[\[host_name.*", "", text, flags=re.MULTILINE)
    return f"{text}\nvoid* entry = reinterpret_cast<void*>(&{launch.instance});\n"


def differ(types: tuple[str, ...]) -> bool:
    """Return whether the types have different address spaces."""
    return len({tuple(SPACES.findall(t or "")) for t in types}) > 1


def crossings(errors: str) -> list[tuple[int, str]]:
    """Return line and message of each error about address spaces; for a call the reason is in the notes below it."""
    result = []
    blocks = re.split(r"^(?=\S+: error: )", errors, flags=re.MULTILINE)
    for block in blocks:
        error = ERROR.search(block)
        if error is None:
            continue
        message = error[2]
        types = INITIALIZATION.search(message)
        if types and differ(types.groups()):
            result.append((int(error[1]), message))
        elif CALL.match(message):
            reason = next((r for r in REFUSED.finditer(block) if r[1] is None or differ(r.groups())), None)
            if reason:
                result.append((int(error[1]), f"{message}: {reason[0]}"))
    return result


def check(launch: Launch) -> None:
    """Raise a Fault for the first pointer that changes its address space."""
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
