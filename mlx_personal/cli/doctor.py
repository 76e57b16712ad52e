"""`doctor`: what this machine computes with, how fast, and what stands in the way."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from mlx_personal.cli.context import Answer, Cli, answers, styled


@dataclass(frozen=True)
class _Check:
    name: str
    ok: bool
    found: str


@click.command()
@answers
def doctor(cli: Cli) -> Answer:
    """Check the machine, the backend and the profile; measure the speed."""
    from mlx_personal.runtime import blas, device

    gflops = device.measure_gflops()
    kind = device.device_name()
    library = blas.preload()
    checks = [
        _Check("python", True, f"{platform.python_version()} on {platform.platform()}"),
        _Check("device", True, f"{kind}: {device.chip_name()}"),
        _Check("dtype", True, "float32, models are unquantized" if kind == "cpu" else "the model's own"),
        _Check("blas", library.tuned, library.name + (f": {library.reason}" if library.reason else "")),
        _Check("speed", gflops > 20, f"{gflops:.0f} GFLOP/s in float32, measured now"),
        *_compiler(library.tuned),
        *_versions(),
        _home(cli),
        _profile(cli),
    ]
    data = {"gflops": gflops, "checks": [vars(c) for c in checks]}

    def show(console: Console) -> None:
        width = max(len(check.name) for check in checks) + 2
        for check in checks:
            mark, style = ("ok", "green") if check.ok else ("no", "red")
            console.print(styled(mark, style, f"  {check.name:<{width}}{check.found}"), soft_wrap=True)

    return Answer(data, show, status=0 if all(c.ok for c in checks) else 1)


def _compiler(tuned: bool) -> list[_Check]:
    """Linux only: the C compiler links the tuned BLAS where the system has none; `tuned`: one is in use already."""
    if platform.system() != "Linux":
        return []
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    missing = "none, and none is needed" if tuned else "none; install one, for example: apt-get install gcc"
    return [_Check("compiler", found is not None or tuned, found or missing)]


def _versions() -> list[_Check]:
    from importlib.metadata import version

    return [_Check(name, True, version(name)) for name in ("mlx-personal", "mlx", "mlx-lm", "numpy")]


def _home(cli: Cli) -> _Check:
    folder = cli.home.folder
    nearest = next(p for p in [folder, *folder.parents] if p.exists())
    ok = os.access(nearest, os.W_OK) and nearest.is_dir()
    return _Check("home", ok, f"{folder}{'' if ok else ' cannot be written; set MLX_PERSONAL_HOME'}")


def _profile(cli: Cli) -> _Check:
    from mlx_personal.errors import UserError
    from mlx_personal.models.language_model import DEMO_MODEL, resolve
    from mlx_personal.profile import holds_profile

    try:
        if not holds_profile(cli.folder):
            return _Check("profile", True, f"no profile {cli.name!r} yet: mlx-personal init")
        with cli.open(write=False) as me:
            # A hub repository is not looked for: that could download it.
            if me.model_name == DEMO_MODEL or Path(me.model_name).is_absolute():
                resolve(me.model_name)
            return _Check("profile", True, f"{me.store.received()} dialogues, on {me.model_name}")
    except UserError as error:
        return _Check("profile", False, error.line())
