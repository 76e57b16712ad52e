"""Functions that the worker processes of test_jobs.py run. Without pytest and MLX, so that they start quickly."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mlx_personal.errors import StoppedError, UserError


def double(number: int) -> int:
    return 2 * number


@dataclasses.dataclass(frozen=True)
class NamedArray:
    name: str
    array: np.ndarray


def sum_columns(named: NamedArray) -> tuple[str, np.ndarray]:
    return named.name, named.array.sum(axis=0)


def call_or_raise(argument: Any) -> Any:
    """Call a callable, raise the error that a string names, and return anything else."""
    if callable(argument):
        return argument()
    if isinstance(argument, str):
        raise {"user": UserError("no such data", "here", "look there"), "defect": KeyError("two\nlines")}[argument]
    return argument


def kill_own_process(signal_number: int) -> None:
    os.kill(os.getpid(), signal_number)
    time.sleep(60)


def exit_with(status: int) -> NoReturn:
    os._exit(status)


def raise_stopped() -> NoReturn:
    raise StoppedError("stopped", signal.SIGTERM)


def return_unpicklable() -> object:
    return threading.Lock()


def die_the_first_time(folder: str) -> int:
    """Leave a mark in the folder; be killed if there was none before."""
    mark = Path(folder, "mark")
    is_retry = mark.exists()
    mark.write_text("")
    if not is_retry:
        kill_own_process(signal.SIGKILL)
    return os.getpid()


def wait_for_file(file: Path | None) -> None:
    while file is not None and not file.exists():
        time.sleep(0.01)


def ignore_sigterm(folder: str) -> None:
    """Leave a mark in the folder and ignore SIGTERM, like training in the middle of a step."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(folder, str(os.getpid())).write_text("")
    time.sleep(60)


def describe_process(_: object) -> tuple[int, str | None, bool]:
    """Return the process id, the number of BLAS threads in the environment, and whether MLX is loaded."""
    time.sleep(0.05)
    return os.getpid(), os.environ.get("OPENBLAS_NUM_THREADS"), "mlx.core" in sys.modules


def describe_blas(_: object) -> tuple[int | None, str, str | None]:
    import mlx_personal.runtime.blas as blas

    return blas.thread_count(), os.environ["OPENBLAS_NUM_THREADS"], os.environ.get("RAY_USAGE_STATS_ENABLED")


def mark_node_and_wait(argument: tuple[str, int]) -> int:
    """Append this Ray node and process to the file of this number, wait for the file `release`, return the number."""
    import ray

    folder, number = argument
    with open(Path(folder, f"{number}"), "a") as marks:
        marks.write(f"{ray.get_runtime_context().get_node_id()} {os.getpid()}\n")
    wait_for_file(Path(folder, "release"))
    return number
