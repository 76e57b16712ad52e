"""Runs a launch in a process of its own, and reads what that process reports."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from . import address_spaces, compiler
from .fault import Fault
from .launch import Launch

MAX_THREADS = 1024
FAULT_STATUS = 3


def scratch_folder() -> str | None:
    """Memory, where there is a file system in memory."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def check_geometry(launch: Launch) -> tuple[int, int, int]:
    """The threadgroup that MLX dispatches: clipped to the grid."""
    tx, ty, tz = launch.threadgroup
    if min(launch.grid) < 1 or min(launch.threadgroup) < 1:
        detail = f"grid {launch.grid} and threadgroup {launch.threadgroup} must be at least 1 in each direction"
        raise Fault("launch", detail, launch.name)
    if tx * ty * tz > MAX_THREADS:
        detail = f"{tx * ty * tz} threads in a threadgroup, the limit is {MAX_THREADS}"
        raise Fault("launch", detail, launch.name)
    gx, gy, gz = launch.grid
    return min(tx, gx), min(ty, gy), min(tz, gz)


def description(launch: Launch, library: Path, folder: Path, seeds: list[int], time_limit: float) -> str:
    """What runtime/main.cpp reads. A line each: library and time limit; grid; threadgroup; number of seeds, seeds;
    number of buffers; and for each buffer role, name, bytes of an element and of its smallest part, bytes in all,
    byte that element 0 starts at, and the file with its contents."""
    lines = [
        f"{library} {time_limit}",
        "{} {} {}".format(*launch.grid),
        "{} {} {}".format(*check_geometry(launch)),
        f"{len(seeds)} {' '.join(map(str, seeds))}",
        str(len(launch.buffers)),
    ]
    for number, buffer in enumerate(launch.buffers):
        path = folder / str(number)
        path.write_bytes(buffer.contents)
        size = len(buffer.contents)
        lines.append(f"{buffer.role} {buffer.name} {buffer.element} {buffer.scalar} {size} {buffer.origin} {path}")
    return "\n".join(lines) + "\n"


def run(launch: Launch, seeds: list[int], time_limit: float) -> list[bytes]:
    """The contents of the outputs after the launch, the same for every seed."""
    library = compiler.kernel_library(launch)
    address_spaces.check(launch)
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as name:
        folder = Path(name)
        text = description(launch, library, folder, seeds, time_limit)
        # The machine limits its own processor time; this limit is for a machine that hangs.
        done = subprocess.run(
            [compiler.machine()], input=text, capture_output=True, text=True, timeout=10 * time_limit + 60, check=False
        )
        if done.returncode == FAULT_STATUS:
            raise reported(launch, library, done.stdout)
        if done.returncode != 0:
            raise RuntimeError(f"the machine failed with status {done.returncode}: {done.stderr}")
        results = [
            [(folder / f"{number}.{run}").read_bytes() for run in range(len(seeds))]
            for number, buffer in enumerate(launch.buffers)
            if buffer.role != "input"
        ]
    outputs = [buffer for buffer in launch.buffers if buffer.role != "input"]
    for buffer, contents in zip(outputs, results, strict=True):
        for other in contents[1:]:
            if other != contents[0]:
                index = next(i for i, (a, b) in enumerate(zip(contents[0], other, strict=True)) if a != b)
                detail = "depends on the order in which the threads run"
                raise Fault("order", detail, launch.name, buffer=buffer.name, index=index // buffer.element)
    return [contents[0] for contents in results]


def reported(launch: Launch, library: Path, report: str) -> Fault:
    fields = dict(line.split(" ", 1) if " " in line else (line, "") for line in report.splitlines())

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
