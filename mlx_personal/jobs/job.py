"""A job, its result, and how a job is run: the same in a local worker process and on Ray."""

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

    Attributes:
        key: Identifies the job within its run.
        argument: What the function is called with. It is sent between processes, so it consists of dataclasses, numpy
            arrays and plain values.
    """

    key: str
    argument: Any


@dataclass(frozen=True)
class JobResult:
    """The result of a job.

    Attributes:
        key: The job's key.
        result: What the function returned; None if it failed.
        error: Why it failed, on one line; None if it did not.
        elapsed_s: How long the function took, or how long until its process died.
    """

    key: str
    result: Any
    error: str | None
    elapsed_s: float


def run_job(function: Callable[[Any], Any], job: Job) -> JobResult:
    """Call the function with the job's argument and return the result or the error.

    An error other than `UserError` is a defect, so its traceback is also written to stderr. If the function was
    stopped by a signal, this process ends with the same signal: the process was meant to end, and the caller then
    sees a process that died.

    Args:
        function: The function.
        job: The job.
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
        # One write call, because other workers write to stderr too.
        sys.stderr.write(f"{job.key}: {traceback.format_exc()}")
        return JobResult(job.key, None, describe_exception(error), time.perf_counter() - start)


def describe_exception(error: BaseException) -> str:
    """Return an exception's type and message on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
