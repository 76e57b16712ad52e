"""`doctor`: what this machine computes with, how fast, and what stands in the way."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass

import click
from rich.console import Console

from mlx_personal.cli.answer import Answer, Cli, answers


@dataclass(frozen=True)
class _Check:
    name: str
    ok: bool
    found: str


@click.command()
@answers
def doctor(cli: Cli) -> Answer:
    """Check the machine, the backend and the profile; measure the speed."""
    from mlx_personal.backend import blas, device

    gflops = device.measure_gflops()
    kind = device.device_name()
    library = blas.preload()
    checks = [
        _Check("python", True, f"{platform.python_version()} on {platform.platform()}"),
        _Check("device", True, f"{kind}: {device.chip_name()}"),
        _Check("dtype", True, "float32, models are unquantized" if kind == "cpu" else "the model's own"),
        _Check("blas", library.tuned, library.name + (f": {library.reason}" if library.reason else "")),
        _Check("speed", gflops > 20, f"{gflops:.0f} GFLOP/s in float32, measured now"),
        *_compiler(),
        *_versions(),
        _home(cli),
        _profile(cli),
    ]
    data = {"gflops": gflops, "checks": [vars(c) for c in checks]}

    def show(console: Console) -> None:
        for check in checks:
            mark = "[green]ok[/]  " if check.ok else "[red]no[/]  "
            console.print(f"{mark}{check.name:<12}{check.found}", soft_wrap=True)

    return Answer(data, show, status=0 if all(c.ok for c in checks) else 1)


def _compiler() -> list[_Check]:
    """Linux only: the C compiler links the tuned BLAS."""
    if platform.system() != "Linux":
        return []
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    return [_Check("compiler", found is not None, found or "none; install one, for example: apt-get install gcc")]


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

    if not (cli.folder / "profile.db").exists():
        return _Check("profile", True, f"no profile {cli.name!r} yet: mlx-personal init")
    try:
        with cli.open(write=False) as me:
            return _Check("profile", True, f"{me.store.received()} dialogues, on {me.model_name}")
    except UserError as error:
        return _Check("profile", False, error.line())
