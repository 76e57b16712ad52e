"""`doctor`: check the machine, the installation and the profile."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.output import CommandResult, json_option
from mlx_personal.cli.remedies import error_line
from mlx_personal.cli.terminal import print_styled

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_personal.runtime.blas_threads import ThreadChoice

# A lower float32 speed means that something is wrong with the machine or its BLAS, unless other processes use it.
_MIN_GFLOPS = 20
_MEASUREMENTS = 3
_BUSY_LOAD = 0.5


@dataclass(frozen=True)
class _Check:
    """The result of a check. The field names are keys of the output with `--json`.

    A check that says nothing because the machine is busy is ok and busy.
    """

    name: str
    ok: bool
    found: str
    busy: bool = False


@click.command()
@json_option
def doctor(cli: CommandContext) -> CommandResult:
    """Check the machine, the installation and the profile.

    It also measures the computing speed. The exit code is 1 if a check fails.
    """
    from mlx_personal.runtime import blas, device

    gflops, threads = _measure_speed()
    kind = device.device_name()
    library = blas.preload()
    checks = [
        _Check("python", True, f"{platform.python_version()} on {platform.platform()}"),
        _Check("device", True, f"{kind}: {device.chip_name()}"),
        _Check("dtype", True, "float32, models are dequantized" if kind == "cpu" else "the model's own"),
        _Check("blas", library.tuned, library.name + (f": {library.reason}" if library.reason else "")),
        _threads_check(threads),
        _speed_check(gflops, threads),
        *_check_compiler(library.tuned),
        *_version_checks(),
        _check_home(cli),
        _check_profile(cli),
    ]

    def show(console: Console) -> None:
        width = max(len(check.name) for check in checks) + 2
        for check in checks:
            mark, style = ("ok", "green") if check.ok else ("no", "red")
            if check.busy:
                mark, style = "--", "yellow"
            print_styled(console, mark, style, f"  {check.name:<{width}}{check.found}")

    data = {"gflops": gflops, "checks": [vars(check) for check in checks]}
    return CommandResult(data, show, exit_code=0 if all(check.ok for check in checks) else 1)


def _measure_speed() -> tuple[float, ThreadChoice]:
    """Return the speed in GFLOP/s, and the number of threads with which it was measured.

    A low speed is measured again, because another process may have been active for a moment.
    """
    from mlx_personal.runtime import blas_threads, device

    # The load of the machine is known some time after the start.
    device.measure_gflops()
    threads, gflops = blas_threads.adapt_threads(), 0.0
    for _ in range(_MEASUREMENTS):
        gflops = max(gflops, device.measure_gflops())
        if gflops > _MIN_GFLOPS:
            break
        threads = blas_threads.adapt_threads()
    return gflops, threads


def _threads_check(threads: ThreadChoice) -> _Check:
    """Say how many threads compute matrix products on a CPU, and why."""
    if threads.threads is None:
        return _Check("threads", True, threads.reason)
    override = "" if "OPENBLAS_NUM_THREADS" in os.environ else "; OPENBLAS_NUM_THREADS=N sets another number"
    return _Check("threads", True, f"{threads.threads}, {threads.reason}{override}")


def _speed_check(gflops: float, threads: ThreadChoice) -> _Check:
    found = f"{gflops:.0f} GFLOP/s in float32, measured now"
    slow, load = gflops <= _MIN_GFLOPS, threads.other_load or 0.0
    if slow and load >= _BUSY_LOAD:
        return _Check("speed", True, f"{found}: other processes use {load:.1f} processors, so this says nothing", True)
    return _Check("speed", not slow, found)


def _check_compiler(tuned: bool) -> list[_Check]:
    """Check for a C compiler on Linux, which links the tuned BLAS where the system has none.

    Args:
        tuned: Whether a tuned BLAS is in use already.
    """
    if platform.system() != "Linux":
        return []
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    missing = "none, and none is needed" if tuned else "none; install one, for example: apt-get install gcc"
    return [_Check("compiler", compiler is not None or tuned, compiler or missing)]


def _version_checks() -> list[_Check]:
    from importlib.metadata import version

    import mlx_personal

    versions = {name: version(name) for name in ("mlx", "mlx-lm", "numpy")}
    return [_Check(name, True, v) for name, v in {"mlx-personal": mlx_personal.__version__, **versions}.items()]


def _check_home(cli: CommandContext) -> _Check:
    folder = cli.home.folder
    nearest = next(path for path in [folder, *folder.parents] if path.exists())
    ok = os.access(nearest, os.W_OK) and nearest.is_dir()
    return _Check("home", ok, f"{folder}{'' if ok else ' cannot be written; set MLX_PERSONAL_HOME'}")


def _check_profile(cli: CommandContext) -> _Check:
    from mlx_personal.errors import UserError
    from mlx_personal.models.loading import DEMO_MODEL, resolve_model
    from mlx_personal.profile import is_profile

    try:
        if not is_profile(cli.profile_folder):
            return _Check("profile", True, f"no profile {cli.profile_name!r} yet: {cli.command('init')}")
        with cli.open_profile(write=False) as personalizer:
            model = personalizer.model_name
            # A hub repository is not resolved: that could download it.
            if model == DEMO_MODEL or Path(model).is_absolute():
                resolve_model(model)
            return _Check("profile", True, f"{personalizer.dialogue_count()} dialogues, on {model}")
    except UserError as error:
        return _Check("profile", False, error_line(error, cli.profile_options))
