"""What the worker processes of test_cluster.py do. Without pytest and MLX, so that they start at once."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mlx_personal.errors import StoppedError, UserError


def double(number: Any) -> Any:
    return 2 * number


@dataclasses.dataclass(frozen=True)
class Request:
    name: str
    rows: Any


def total(request: Any) -> Any:
    return request.name, request.rows.sum(axis=0)


def behave(what: Any) -> Any:
    """Does what it is told, mostly harm."""
    if callable(what):
        return what()
    if isinstance(what, str):
        raise {"user": UserError("no such data", "here", "look there"), "defect": KeyError("two\nlines")}[what]
    return what


def end_as(number: Any) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(status: Any) -> None:
    os._exit(status)


def stop_as_told() -> None:
    raise StoppedError("stopped", signal.SIGTERM)


def return_what_cannot_travel() -> Any:
    return threading.Lock()


def die_the_first_time(folder: Any) -> Any:
    """Leaves a mark, and is killed if there was none."""
    mark = Path(folder, "mark")
    before = mark.exists()
    mark.write_text("")
    if not before:
        end_as(signal.SIGKILL)
    return os.getpid()


def wait_for(file: Any) -> None:
    while file is not None and not file.exists():
        time.sleep(0.01)


def wait_stubbornly(folder: Any) -> None:
    """Marks that it is there, and takes no notice of SIGTERM, as a training in the middle of a step."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(folder, str(os.getpid())).write_text("")
    time.sleep(60)


def process_and_threads(_: Any) -> Any:
    time.sleep(0.05)
    return os.getpid(), os.environ.get("OPENBLAS_NUM_THREADS"), "mlx.core" in sys.modules


def blas_in_use(_: Any) -> Any:
    import mlx_personal.runtime.blas as blas

    return blas.threads(), os.environ["OPENBLAS_NUM_THREADS"], os.environ.get("RAY_USAGE_STATS_ENABLED")


def slow_mark(argument: Any) -> Any:
    """Says that it was begun by a line in a file, takes a while, and returns its number."""
    folder, number = argument
    with open(Path(folder, f"{number}"), "a") as marks:
        marks.write(f"{os.getpid()}\n")
    time.sleep(0.4)
    return number
