"""A job, its result, and the function that runs it in a local worker process or on Ray."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlx_personal.errors import StoppedError, StorageError, UserError, from_os_error


@dataclass(frozen=True)
class Job:
    """One independent piece of work.

    Attributes:
        key: Identifies the job within its run.
        argument: Argument of the function, sent to another process: dataclasses, NumPy arrays and plain values only.
    """

    key: str
    argument: Any


@dataclass(frozen=True)
class JobResult:
    """The result of a job.

    Attributes:
        key: The job's key.
        result: Return value of the function; None if it failed.
        error: Why it failed, on one line; None if it did not.
        elapsed_s: Seconds that the function took, or until its process died.
        storage_failed: Whether the job failed with a `StorageError`, so that other jobs would fail too.
    """

    key: str
    result: Any
    error: str | None
    elapsed_s: float
    storage_failed: bool = False


def run_job(function: Callable[[Any], Any], job: Job) -> JobResult:
    """Call the function with the job's argument and return the result or the error.

    An error other than `UserError` is a defect, so its traceback is also written to stderr. If the function was stopped
    by a signal, this process ends with the same signal, and its parent handles the death of the process.

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
    except (UserError, OSError) as error:
        user_error = from_os_error(error) if isinstance(error, OSError) else error
        failed = isinstance(user_error, StorageError)
        return JobResult(job.key, None, user_error.line(), time.perf_counter() - start, failed)
    except Exception as error:
        # One write call, because other workers write to stderr too.
        sys.stderr.write(f"{job.key}: {traceback.format_exc()}")
        return JobResult(job.key, None, describe_exception(error), time.perf_counter() - start)


def describe_exception(error: BaseException) -> str:
    """Return an exception's type and message on one line.

    Args:
        error: The exception.
    """
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
