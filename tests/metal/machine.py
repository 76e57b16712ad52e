"""Run a launch in another process and read its report."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import address_spaces, compiler
from .fault import Fault
from .launch import Buffer, Launch

MAX_THREADS = 1024
FAULT_STATUS = 3


def scratch_folder(launch: Launch) -> str | None:
    """Return a file system in memory, if there is one with space for all buffers and the outputs of all orders."""
    memory, needed = "/dev/shm", 8 * sum(len(buffer.contents) for buffer in launch.buffers)
    return memory if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > needed else None


def check_geometry(launch: Launch) -> tuple[int, int, int]:
    """Check the launch geometry, and return the threadgroup that MLX dispatches: clipped to the grid."""
    tx, ty, tz = launch.threadgroup
    if min(launch.grid) < 1 or min(launch.threadgroup) < 1:
        detail = f"grid {launch.grid} and threadgroup {launch.threadgroup} must be at least 1 in each direction"
        raise Fault("launch", detail, launch.name)
    if tx * ty * tz > MAX_THREADS:
        detail = f"{tx * ty * tz} threads in a threadgroup, the limit is {MAX_THREADS}"
        raise Fault("launch", detail, launch.name)
    gx, gy, gz = launch.grid
    return min(tx, gx), min(ty, gy), min(tz, gz)


def description(launch: Launch, library: Path, folder: Path, seeds: list[int], time_limit: float, flush: bool) -> str:
    """Return the description of a launch that runtime/main.cpp reads.

    It has a line each for: library; time limit; whether denormals are flushed; grid; threadgroup; number of seeds and
    the seeds; number of buffers. Then two lines for each buffer: the file with its contents; and role, name, bytes of
    an element, bytes of its smallest part, total bytes, offset of element 0.
    """
    lines = [
        str(library),
        str(time_limit),
        str(int(flush)),
        "{} {} {}".format(*launch.grid),
        "{} {} {}".format(*check_geometry(launch)),
        f"{len(seeds)} {' '.join(map(str, seeds))}",
        str(len(launch.buffers)),
    ]
    for number, buffer in enumerate(launch.buffers):
        path = folder / str(number)
        path.write_bytes(buffer.contents)
        size = len(buffer.contents)
        lines.append(str(path))
        lines.append(f"{buffer.role} {buffer.name} {buffer.element} {buffer.scalar} {size} {buffer.origin}")
    return "\n".join(lines) + "\n"


def run(launch: Launch, seeds: list[int], time_limit: float, flush: bool) -> list[bytes]:
    """Run a launch and return the contents of its outputs, which must be the same for every seed."""
    library = compiler.kernel_library(launch)
    address_spaces.check(launch)
    with tempfile.TemporaryDirectory(dir=scratch_folder(launch)) as name:
        folder = Path(name)
        execute(launch, library, description(launch, library, folder, seeds, time_limit, flush), time_limit)
        outputs = [number for number, buffer in enumerate(launch.buffers) if buffer.role != "input"]
        runs = [[(folder / f"{number}.{run}").read_bytes() for number in outputs] for run in range(len(seeds))]
    first, *others = runs
    for other in others:
        for number, a, b in zip(outputs, first, other, strict=True):
            if a != b:
                raise order_fault(launch, launch.buffers[number], a, b)
    return first


def execute(launch: Launch, library: Path, text: str, time_limit: float) -> None:
    """Run the machine on a description; raise the fault that it reports."""
    # The machine limits its own processor time; this limit is for a machine that hangs.
    limit = 10 * time_limit + 60
    try:
        done = subprocess.run(
            [compiler.machine()], input=text, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired as hung:
        raise Fault("time limit", f"did not end within {limit:g} s", launch.name) from hung
    if done.returncode == FAULT_STATUS:
        raise reported(launch, library, done.stdout)
    if done.returncode != 0:
        raise RuntimeError(f"the machine failed with status {done.returncode}: {done.stderr}")


def order_fault(launch: Launch, buffer: Buffer, a: bytes, b: bytes) -> Fault:
    """Return the fault of an output that differs between two orders of the threads."""
    index = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y) // buffer.element
    detail = "depends on the order in which the threads run"
    return Fault("order", detail, launch.name, buffer=buffer.name, index=index)


def reported(launch: Launch, library: Path, report: str) -> Fault:
    """Return the fault that the machine reports."""
    lines = [line.partition(" ") for line in report.splitlines()]
    fields = {key: value for key, _, value in lines}

    def line_at(key: str) -> tuple[int | None, str]:
        number = compiler.source_line(library, [int(word, 16) for word in fields.get(key, "").split()])
        return number, launch.text.splitlines()[number - 1] if number is not None else ""

    def position(key: str) -> tuple[int, int, int] | None:
        if key not in fields:
            return None
        x, y, z = map(int, fields[key].split())
        return x, y, z

    fault = Fault(fields["kind"], fields["detail"], launch.name)
    fault.line, fault.text = line_at("sites")
    fault.other_line, fault.other_text = line_at("other")
    fault.buffer = fields.get("buffer", "")
    fault.index = int(fields["index"]) if "index" in fields else None
    fault.thread, fault.group = position("thread"), position("group")
    return fault
