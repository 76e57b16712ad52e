"""Measure the CPU time of the commands that users call most: help, shell completion, and the status of a large profile.

    python -m benchmarks.startup [--dialogues N] [--repeats N]

CPU time is that of user and system, the best of several repeats. The profile is a temporary one on the embedded model,
with dialogues written directly into its store. The exit code is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import benchmarks
from benchmarks.arguments import positive_int
from mlx_personal import Dialogue
from mlx_personal.profile import Store
from mlx_personal.reporting import markdown_table
from mlx_personal.storage.home import Home

# `sys.argv[0]` is what shell completion derives the name of its variable from.
PROGRAM = (sys.executable, "-c", "import sys; sys.argv[0] = 'mlx-personal'; from mlx_personal.cli import main; main()")


@dataclass(frozen=True)
class StartupCase:
    """A command that is measured.

    Attributes:
        name: The command, for the table.
        target_s: Maximum CPU time in seconds.
        arguments: Arguments of the command.
        environment: Environment variables of the command.
    """

    name: str
    target_s: float
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None


CASES = (
    StartupCase("mlx-personal --help", 0.25, ("--help",)),
    StartupCase(
        "shell completion",
        0.25,
        environment={
            "_MLX_PERSONAL_COMPLETE": "bash_complete",
            "COMP_WORDS": "mlx-personal ",
            "COMP_CWORD": "1",
        },
    ),
    StartupCase("mlx-personal status", 0.5, ("status",)),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__.partition("\n")[0])
    parser.add_argument("--dialogues", type=positive_int, default=100_000, help="size of the profile; default 100,000")
    parser.add_argument("--repeats", type=positive_int, default=5, help="repeats, of which the best counts; default 5")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        create_profile(Path(folder), options.dialogues)
        times = [min(cpu_time_s(case, Path(folder)) for _ in range(options.repeats)) for case in CASES]
    rows = [
        [case.name, f"{time_s:.3f}", f"{case.target_s:.2f}", "yes" if time_s <= case.target_s else "no"]
        for case, time_s in zip(CASES, times, strict=True)
    ]
    print(markdown_table(["command", "CPU time, s", "target, s", "met"], rows))
    return int(any(time_s > case.target_s for case, time_s in zip(CASES, times, strict=True)))


def create_profile(home: Path, num_dialogues: int) -> None:
    """Create a profile on the embedded model, and write dialogues into its store."""
    command = [*PROGRAM, "init", "--model", "demo"]
    subprocess.run(command, env=command_environment(home), check=True, stdout=subprocess.DEVNULL)
    store = Store(Home(home).profile("default"))
    try:
        dialogues = (Dialogue.of(f"What is {n} times 7?", f"It is {7 * n}.") for n in range(num_dialogues))
        store.add_dialogues(dialogues, "benchmark")
    finally:
        store.close()


def cpu_time_s(case: StartupCase, home: Path) -> float:
    """Run a command once and return its CPU time in seconds, that of its own child processes included.

    Raises:
        RuntimeError: If the command fails or prints nothing.
    """
    environment = {**command_environment(home), **(case.environment or {})}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([*PROGRAM, *case.arguments], env=environment, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0 or os.fstat(output.fileno()).st_size == 0:
            raise RuntimeError(f"{case.name} failed with exit code {process.returncode} or printed nothing")
    return usage.ru_utime + usage.ru_stime


def command_environment(home: Path) -> dict[str, str]:
    """Return the environment of a user whose profiles are in a folder, with the number of threads they chose."""
    environment = {**os.environ, "MLX_PERSONAL_HOME": str(home)}
    if benchmarks.CHOSEN_THREADS is None:
        environment.pop("OPENBLAS_NUM_THREADS", None)
    return environment


if __name__ == "__main__":
    sys.exit(main())
