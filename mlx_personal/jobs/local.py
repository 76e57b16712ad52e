"""Run jobs in worker processes on this machine.

The standard library's process pools break as a whole when one of their processes dies, so this module has its own pool.
A worker runs many jobs, so what its modules cache, such as a loaded model, is available to the next job.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing.connection
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mlx_personal.errors import UserError
from mlx_personal.jobs.cores import blas_threads
from mlx_personal.jobs.job import Job, JobResult, describe_exception
from mlx_personal.jobs.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

# How many processes may die while running one job, and how many workers in a row may die before they are ready.
_MAX_ATTEMPTS = 2
# Time between terminating workers and killing them.
_TERMINATION_TIMEOUT_S = 3.0


def run_locally(function: Callable[[Any], Any], jobs: Iterable[Job], workers: int) -> Generator[JobResult, None, None]:
    """Run the jobs in at most `workers` processes and yield each as it finishes; see `run_jobs`.

    Args:
        function: Function to call with each job's argument.
        jobs: The jobs.
        workers: Maximum number of processes.

    Yields:
        The result of each job.

    Raises:
        UserError: If workers cannot start.
    """
    pool = _WorkerPool(function, iter(jobs), workers)
    results: list[JobResult] = []
    try:
        while True:
            # Before yielding, so that workers compute while the caller processes the results.
            pool.start_jobs()
            # The caller stops at the first result of a machine whose disk is full, so it comes last.
            yield from sorted(results, key=lambda result: result.storage_failed)
            results = pool.wait()
            if not results:
                return
    finally:
        pool.shut_down()


@dataclass
class _Attempt:
    """A job and how many processes have died while running it."""

    job: Job
    deaths: int = 0


@dataclass(eq=False)
class _WorkerSlot:
    """A worker process, whether it is ready for jobs, its current job, and when that was sent."""

    worker: WorkerProcess
    ready: bool = False
    attempt: _Attempt | None = None
    sent_at: float = 0.0


class _WorkerPool:
    """The workers, the jobs that wait for one, and the results that have not been returned yet."""

    def __init__(self, function: Callable[[Any], Any], jobs: Iterator[Job], workers: int):
        self._function, self._jobs, self._max_workers = function, jobs, workers
        self._threads = blas_threads(workers)
        self._retries: deque[_Attempt] = deque()
        self._slots: list[_WorkerSlot] = []
        self._results: list[JobResult] = []
        self._failed_starts = 0

    def start_jobs(self) -> None:
        """Send a job to every idle worker, and start workers while there are jobs for them."""
        while True:
            slot = next((slot for slot in self._slots if slot.attempt is None), None)
            if slot is None and len(self._slots) >= self._max_workers:
                return
            attempt = self._next_attempt()
            if attempt is None:
                return
            if slot is None:
                slot = self._start_worker()
            slot.attempt = attempt
            if slot.ready:
                self._send(slot, attempt)

    def wait(self) -> list[JobResult]:
        """Wait until at least one job has finished, and return the results; an empty list if no job is left."""
        while not self._results:
            busy = [slot for slot in self._slots if slot.attempt is not None]
            if not busy:
                break
            readable = multiprocessing.connection.wait([slot.worker.connection for slot in busy])
            for slot in busy:
                if slot.worker.connection in readable:
                    self._receive(slot)
            self.start_jobs()
        results, self._results = self._results, []
        return results

    def shut_down(self) -> None:
        """End all workers.

        Idle workers exit when their connection closes; busy ones are terminated, and killed if they do not end in time.
        """
        for slot in self._slots:
            slot.worker.connection.close()
            if slot.attempt is not None:
                slot.worker.process.terminate()
        deadline = time.monotonic() + _TERMINATION_TIMEOUT_S
        for slot in self._slots:
            try:
                slot.worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                slot.worker.process.kill()
        for slot in self._slots:
            slot.worker.close()

    def _next_attempt(self) -> _Attempt | None:
        if self._retries:
            return self._retries.popleft()
        job = next(self._jobs, None)
        return None if job is None else _Attempt(job)

    def _start_worker(self) -> _WorkerSlot:
        slot = _WorkerSlot(WorkerProcess(self._threads))
        self._slots.append(slot)
        # If the worker is already dead, `wait` detects it.
        with contextlib.suppress(ConnectionError):
            slot.worker.connection.send(self._function)
        return slot

    def _send(self, slot: _WorkerSlot, attempt: _Attempt) -> None:
        slot.sent_at = time.perf_counter()
        try:
            slot.worker.connection.send(attempt.job)
        except ConnectionError:
            pass  # `wait` detects the dead worker.
        except Exception as error:  # Pickling raises whatever the object raises.
            slot.attempt = None
            reason = f"its argument cannot be sent: {describe_exception(error)}"
            self._results.append(JobResult(attempt.job.key, None, reason, 0.0))

    def _receive(self, slot: _WorkerSlot) -> None:
        """Handle a worker's message, or its death."""
        attempt = slot.attempt
        assert attempt is not None
        try:
            message = slot.worker.connection.recv()
        except (EOFError, OSError):
            self._handle_death(slot, attempt)
            return
        if isinstance(message, JobResult):
            slot.attempt = None
            self._results.append(message)
        else:
            slot.ready, self._failed_starts = True, 0
            self._send(slot, attempt)

    def _handle_death(self, slot: _WorkerSlot, attempt: _Attempt) -> None:
        """Retry the job of a worker that died, or report it as failed if another process had died running it."""
        self._slots.remove(slot)
        slot.worker.close()
        exit_reason = _exit_reason(slot.worker.process.returncode)
        if not slot.ready:
            logger.warning("a worker process %s before its first job", exit_reason)
            self._failed_starts += 1
            if self._failed_starts >= _MAX_ATTEMPTS:
                what = f"a worker process {exit_reason} before its first job"
                raise UserError(what, hint="see its output above")
            self._retries.append(attempt)
            return
        attempt.deaths += 1
        retry = attempt.deaths < _MAX_ATTEMPTS
        logger.warning("the process of a job %s; %s", exit_reason, "retrying" if retry else "giving up")
        if retry:
            self._retries.append(attempt)
            return
        hint = "most likely out of memory: use fewer workers" if exit_reason.endswith("SIGKILL") else None
        error = UserError(f"its process {exit_reason}, and so did the one before", hint=hint)
        elapsed_s = time.perf_counter() - slot.sent_at
        self._results.append(JobResult(attempt.job.key, None, error.line(), elapsed_s))


def _exit_reason(status: int) -> str:
    """Return how a process ended, given its return code."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # Real-time signals have no name.
        return f"was killed by signal {-status}"
