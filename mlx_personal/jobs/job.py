"""What a job is, what comes back of it, and how one is performed: the same in a worker process and on Ray."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlx_personal.errors import StoppedError, UserError


@dataclass(frozen=True)
class Job:
    """One independent piece of work.

    Args:
        key: tells it apart from all others of a run.
        argument: what the function is called with; it travels between processes, so it is made of dataclasses, numpy
            arrays and plain values.
    """

    key: str
    argument: Any


@dataclass(frozen=True)
class JobResult:
    """What came back of a job.

    Args:
        key: the job's.
        result: what the function returned; None where it failed.
        error: why it failed, on one line; None where it did not.
        seconds: what the function took; where its process died, what passed until then.
    """

    key: str
    result: Any
    error: str | None
    seconds: float


def perform(function: Callable[[Any], Any], job: Job) -> JobResult:
    """Calls the function and says what came of it. An error that is no `UserError` leaves its traceback on stderr.

    A function that was told by a signal to stop ends the process as that signal does: the process is what somebody
    wanted to end, and who waits for the job learns it as of any process that died.
    """
    start = time.perf_counter()
    try:
        return JobResult(job.key, function(job.argument), None, time.perf_counter() - start)
    except StoppedError as stopped:
        signal.signal(stopped.signal, signal.SIG_DFL)
        signal.raise_signal(stopped.signal)
        raise
    except UserError as error:
        return JobResult(job.key, None, error.line(), time.perf_counter() - start)
    except Exception as error:
        # In one piece: other workers write there too.
        sys.stderr.write(f"{job.key}: {traceback.format_exc()}")
        return JobResult(job.key, None, one_line(error), time.perf_counter() - start)


def one_line(error: BaseException) -> str:
    """An exception's type and message on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
